"""Quasi-diagonal natural gradient: the step does not depend on how a unit's values are shifted and scaled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.conditioning._layers import grouped_delta_rows, grouped_rows
from truestep.conditioning.transforms._capture import Use, _running_backward  # pyright: ignore[reportPrivateUsage]
from truestep.conditioning.transforms._fisher import UnitFisher, exact_deltas, sampled_deltas, unit_fisher
from truestep.conditioning.transforms._natural_step import diagonal, quasi_diagonal
from truestep.conditioning.transforms._stepped import Stepped
from truestep.conditioning.transforms._transform import AbstractTransform, Gradient
from truestep.core import warn


class QuasiDiagonal(AbstractTransform[UnitFisher]):
    r"""Steps along the quasi-diagonal natural gradient of each unit in Linear and Conv2d layers.

    .. math:: \Delta w_j = \frac{g_j - g_0 F_{0j}/F_{00}}{F_{jj} - F_{0j}^2/F_{00}}, \qquad
        \Delta b = \frac{g_0}{F_{00}} - \sum_j \frac{F_{0j}}{F_{00}}\,\Delta w_j

    with :math:`F_{00}, F_{0j}, F_{jj}` the means over samples of :math:`\delta^2, \delta^2 a_j, \delta^2 a_j^2`. What
    the network computes after a step does not depend on how the values of its units are shifted and scaled: a net of
    logistic units and its twin of tanh units stay one function (with `damping=0`; K-FAC's promise is for whole layers).
    What `quasi_diagonal` does with inputs that never change holds here.

    The step has the natural gradient's size, not SGD's, and of one batch it is rough: take `ema=0.9` and start from lr
    0.005 to 0.05 without momentum, a tenth of that with momentum 0.9. With `ema=0` and sampled labels even 0.005 can
    diverge. Parameters of other layers keep their gradient; give them a group with an lr of its own. Layers
    without a bias are divided by the diagonal. Where losses go to 0, F does so faster than the gradient and the step
    grows; a layer whose F is 0, or below what the format holds, takes none.

    F is right if the loss is over as many samples (times `predictions`) as are counted; k times too many, and the step
    is k times too short with "empirical" and "mean", k times too long else. Counted are entries of the first dimension
    where the loss is nearest (of `observe`'s logits), one number for all layers of a backward, added up over the
    backwards of a step: right for micro-batches whose losses are divided by their number. Set `samples`, which stays
    until it is set again, ahead of the step where that is not so:

    - targets that the loss ignores: the number of those it keeps, with `predictions` 1 (or `observe` these alone);
    - pairs of embeddings that went through the net as one batch: the number of pairs;
    - several backwards over the same samples whose losses are added, not averaged: the number in one of them;
    - sample weights: no number is exact.

    With `truestep.loss.Tally` take reduction "mean": its losses go backward as a sum times a power of two, between 1/2
    and 1 over the terms of the step before (at first, of the first micro-batch). Once batches have one size, the
    empirical F is between 1/4 and 1 of what it should be, and lr must make up for that.

    Args:
        model: Bare, or wrapped by DistributedDataParallel or torch.compile (attach it before the first pass).
        optimizer: Any `torch.optim.Optimizer` with step hooks, except LBFGS; steps weight and bias of a layer.
        reduction: How the loss reduces the batch, "mean" (with micro-batches: of all of them) or "sum". F is that of a
            sample's own loss either way; the gradient keeps its own units.
        fisher: Whose gradients: of the loss itself ("empirical", no further pass), of labels drawn from the model
            ("sampled", one more backward), or of all labels ("exact", one backward a class). The last two need
            `observe`.
        damping: Added to :math:`F_{00}` and :math:`F_{jj}` in units of their mean over the layer.
        ema: How much of the sums of the step before is kept, between 0 (this batch alone) and 1.
        predictions: How many losses a sample (an entry of the first dimension of what the last layer makes) brings into
            the mean, for "empirical": words of a sequence, pixels of a mask; 1 where sequences are laid flat before
            the last layer. `observe` counts them itself.
        scaler: The `torch.amp.GradScaler` of the loop, if there is one: its scale is in the deltas.
        generator: Draws the labels of "sampled"; None makes one on the logits' device, seeded with the rank.
        group: Ranks that share the batch; None is all of them.

    Raises:
        ValueError: If no layer is left, parameters are sharded (FSDP), the optimizer takes no hooks or is LBFGS, an
            argument is out of its range, or a transform is on one of the layers.

    Note:
        Deviation: places of a convolution and words of a sequence are taken as uncorrelated samples of the same unit
        (as K-FAC does); the paper has only fully connected layers. Sums are float32 for a float32 model.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        >>> transform = QuasiDiagonal(model, optimizer, fisher="sampled", ema=0.9)
        >>> logits = model(torch.randn(20, 4))
        >>> transform.observe(logits)
        >>> nn.functional.cross_entropy(logits, torch.arange(20) % 3).backward()
        >>> optimizer.step()

    References:
        Ollivier 2015, Riemannian metrics for neural networks I (arXiv:1303.0818); Marceau-Caron and Ollivier 2016,
        Practical Riemannian neural networks (arXiv:1602.08007). Grosse, CSC 2541 (2021), lecture 5.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        reduction: Literal["mean", "sum"] = "mean",
        fisher: Literal["empirical", "sampled", "exact"] = "empirical",
        damping: int | float = 0.01,
        ema: int | float = 0.0,
        predictions: int = 1,
        scaler: Any = None,
        generator: torch.Generator | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        _check(reduction, fisher, damping, predictions)
        self._is_mean, self._fisher, self._damping = reduction == "mean", fisher, damping
        self._predictions, self._generator = predictions, generator
        self._samples_set: int | None = None
        self._counted = (-1, 0)  # the backward that runs, and its samples
        self._observed = 0
        self._warned_of_samples = False
        self._gain = 0  # what deltas are multiplied with before they are squared: the first batch's size, or 1
        self._scratch = torch.empty(0)
        if fisher != "empirical":
            self._hint = "call `observe(logits)` on it after each forward pass, before its backward"
        super().__init__(model, optimizer, biased=False, ema=ema, scaler=scaler, group=group)

    @property
    def samples(self) -> int | None:
        """How many samples this rank's gradient of the step is made of; None, as it begins, has them counted."""
        return self._samples_set

    @samples.setter
    def samples(self, samples: int | None) -> None:
        if samples is not None and samples < 0:
            msg = f"`samples` must be how many samples a step's gradient is made of, or None, found {samples}"
            raise ValueError(msg)
        self._samples_set = samples

    def observe(self, logits: Float[Tensor, "samples *predictions classes"]) -> None:
        """Take the Fisher information of a softmax over `logits`: after the forward pass, before its backward.

        Nothing of the user's is touched: gradients, graph and the global random numbers stay as they are.

        Args:
            logits: What the model gave, classes last, with its graph. Of several outputs for one sample each counts.

        Raises:
            ValueError: If `fisher` is "empirical", or the logits have no graph.
        """
        if self._fisher == "empirical":
            msg = '`fisher` must be "sampled" or "exact" for `observe`, found "empirical", which needs no logits'
            raise ValueError(msg)
        if not logits.requires_grad:
            msg = "`logits` must have a graph, found none; observe what the model gave before it is detached"
            raise ValueError(msg)
        share = 1 / max(prod(logits.shape[1:-1]), 1) ** 0.5  # of a sample's predictions
        self._observed = len(logits) if logits.dim() > 1 else 1
        with self._capture.observing():
            for delta in self._deltas(logits):
                vector = (share * delta).to(logits)
                torch.autograd.grad(logits, self._probes(), vector, retain_graph=True, allow_unused=True)

    def _deltas(self, logits: Tensor) -> Iterable[Tensor]:
        if self._fisher == "exact":
            return exact_deltas(logits)
        if self._generator is None:
            rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
            self._generator = torch.Generator(logits.device).manual_seed(rank)
        return [sampled_deltas(logits, self._generator)]

    def _probes(self) -> list[Tensor]:
        """What a backward must reach to pass all layers; a bias costs no matrix product."""
        return [layer.weight if layer.bias is None else layer.bias for layer in self._layers.values()]

    def _summed(self, use: Use) -> UnitFisher | None:
        if use.observed != (self._fisher != "empirical"):
            return None
        a, delta = grouped_rows(use.module, use.x), grouped_delta_rows(use.module, use.delta)
        if use.observed:
            return unit_fisher(a, delta, 0)
        if not self._gain:  # exact for batches of this size, so that the matrices need not be multiplied again
            samples = use.samples if self._samples_set is None else self._samples_set
            self._gain = max(samples, 1) * self._predictions if self._is_mean else 1
        return unit_fisher(a, delta, 0, self._gain)

    def _samples(self, use: Use) -> int:
        """One number for all layers of a backward: of the logits observed, or of the use that it reaches first."""
        if use.observed:
            return self._observed
        backward = _running_backward()
        if self._counted[0] != backward:
            self._counted = backward, use.samples
        _, samples = self._counted
        if use.samples != samples and self._samples_set is None and not self._warned_of_samples:
            self._warned_of_samples = True
            warn(f"QuasiDiagonal found layers of one backward with {samples} and with {use.samples} samples (entries "
                 f"of the first dimension) and takes {samples}, which is nearest the loss, for all: if the loss is no "
                 "mean over as many, set `samples`")  # fmt: skip
        return samples

    def _zeros(self, layer: Stepped) -> UnitFisher:
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        zeros = torch.zeros(len(layer.weight), layer.features, dtype=dtype, device=layer.weight.device)
        return UnitFisher(zeros.new_zeros((), dtype=torch.float64), zeros.sum(1), zeros, zeros)

    def _freed(self, layer: Stepped, sums: UnitFisher, samples: int) -> UnitFisher:
        del layer
        samples = samples if self._samples_set is None else self._samples_set
        n = samples if self._fisher != "empirical" else samples * self._predictions
        whole = replace(sums, n=sums.n + n)
        if self._fisher != "empirical":
            return whole
        gain = n / self._gain if self._is_mean else 1.0
        if gain == 1 and self._scaler is None and getattr(self._optimizer, "grad_scale", None) is None:
            return whole
        factor = (gain / self._loss_scale(sums.bias)).to(sums.bias).square()
        return UnitFisher(whole.n, factor * sums.bias, factor * sums.cross, factor * sums.weight)

    def _direction(self, sums: UnitFisher, gradient: Gradient, room: Tensor) -> Gradient:
        weight, n = gradient.weight.flatten(0, 1), sums.n.to(sums.bias)  # of sums, not means
        if gradient.bias is None:
            return Gradient(diagonal(weight, sums.weight, self._damping).mul_(n).view_as(room), None)
        kept = self._scratch
        if kept.numel() < weight.numel() or (kept.dtype, kept.device) != (weight.dtype, weight.device):
            self._scratch = weight.new_empty(weight.numel())
        entries, scratch = (sums.bias, sums.cross, sums.weight), self._scratch[: weight.numel()].view_as(weight)
        bias, into = gradient.bias.flatten(), room.flatten(0, 1)
        step, offset = quasi_diagonal(weight, bias, *entries, self._damping, room=into, scratch=scratch)
        return Gradient(step.mul_(n).view_as(room), offset.mul_(n).view_as(gradient.bias))


def _check(reduction: str, fisher: str, damping: int | float, predictions: int) -> None:
    known = {"reduction": (reduction, ("mean", "sum")), "fisher": (fisher, ("empirical", "sampled", "exact"))}
    for name, (value, values) in known.items():
        if value not in values:
            msg = f"`{name}` must be one of {', '.join(values)}, found {value!r}"
            raise ValueError(msg)
    if not 0 <= damping < torch.inf:
        msg = f"`damping` must be a number from 0 on, in units of the mean Fisher entry, found {damping}"
        raise ValueError(msg)
    if predictions < 1:
        msg = f"`predictions` must be how many losses a sample brings into the mean, 1 or more, found {predictions}"
        raise ValueError(msg)

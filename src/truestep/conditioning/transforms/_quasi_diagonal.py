"""Quasi-diagonal natural gradient: the step does not depend on how a unit's values are shifted and scaled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.conditioning._layers import grouped_delta_rows, grouped_rows
from truestep.conditioning.transforms._capture import Use
from truestep.conditioning.transforms._fisher import UnitFisher, exact_deltas, sampled_deltas, unit_fisher
from truestep.conditioning.transforms._stepped import Stepped
from truestep.conditioning.transforms._transform import AbstractTransform, Gradient

DEAD = 1e-10  # conditional variance, in units of the weight's own Fisher entry, below which an input says nothing new
ROUNDING = 16  # ... and in units of the format's rounding: narrower formats cannot tell smaller ones from 0


def quasi_diagonal(
    weight: Float[Tensor, "out features"],
    bias: Float[Tensor, " out"],
    f00: Float[Tensor, " out"],
    f0j: Float[Tensor, "out features"],
    fjj: Float[Tensor, "out features"],
    damping: int | float = 0.0,
    *,
    room: Float[Tensor, "out features"] | None = None,
    scratch: Float[Tensor, "out features"] | None = None,
) -> tuple[Float[Tensor, "out features"], Float[Tensor, " out"]]:
    r"""Natural gradient of each unit that knows its Fisher matrix on the diagonal and between bias and weight only.

    .. math:: \Delta w_j = \frac{g_j - g_0 F_{0j}/F_{00}}{F_{jj} - F_{0j}^2/F_{00}}, \qquad
        \Delta b = \frac{g_0}{F_{00}} - \sum_j \frac{F_{0j}}{F_{00}}\,\Delta w_j

    A descent direction. The function a network is after a step does not change when the values of single units are
    shifted and scaled (logistic against tanh), with damping 0; lr then is a rate of its own, unlike SGD's.

    The denominator is what of an input's variance the bias does not account for, 0 for an input that never changes
    (a constant pixel, a dead ReLU): its weight is left where it is. So is a unit that no gradient has reached.

    Args:
        weight: Gradient of the weight, of the mean loss (reduction "mean").
        bias: Gradient of the bias.
        f00: Fisher entry of the bias; entries are means over samples, of each sample's own loss (`UnitFisher`).
        f0j: Fisher entry of bias and weight.
        fjj: Fisher entry of the weight.
        damping: Added to `f00` and `fjj` in units of their mean over the layer; any breaks the invariance a little.
        room: Where the first result is written, if given: fresh memory costs more than the arithmetic.
        scratch: Memory to work in, of the entries' format.

    Returns:
        What takes the place of the weight's and the bias's gradient.

    Example:
        >>> import torch
        >>> g, one = torch.tensor([[6.0, 7.0]]), torch.ones(1)
        >>> quasi_diagonal(g, 2 * one, one, torch.tensor([[2.0, 3.0]]), torch.tensor([[8.0, 9.0]]))
        (tensor([[0.5000, 0.0000]]), tensor([1.]))

    References:
        Ollivier 2015, Riemannian metrics for neural networks I (arXiv:1303.0818); Marceau-Caron and Ollivier
        2016, Practical Riemannian neural networks (arXiv:1602.08007).
    """
    added = damping * (f00.sum() + fjj.sum()) / (f00.numel() + fjj.numel()) if damping else 0.0
    inverse = (f00 + added).reciprocal_()
    inverse.masked_fill_(inverse == torch.inf, 0)  # no gradient has reached these units: ratio and step are 0
    explained = torch.mul(f0j, inverse.sqrt()[:, None], out=scratch)
    variance = torch.addcmul(fjj, explained, explained, value=-1, out=scratch)
    if damping:
        variance.relu_().add_(added)
    else:
        least = max(DEAD, ROUNDING * torch.finfo(fjj.dtype).eps)
        torch.threshold_(variance.add_(fjj, alpha=-least), 0, torch.inf)  # a mask takes many times as long
        variance.add_(fjj, alpha=least)
    correction = bias * inverse
    step = torch.addcmul(weight, correction[:, None], f0j, value=-1, out=room).div_(variance)
    return step, correction - inverse * torch.linalg.vecdot(f0j, step)


def diagonal(
    weight: Float[Tensor, "out features"], fjj: Float[Tensor, "out features"], damping: int | float = 0.0
) -> Float[Tensor, "out features"]:
    r"""What `quasi_diagonal` is for a layer without bias, :math:`g_j/F_{jj}`; invariant to scales, not to shifts.

    Example:
        >>> import torch
        >>> diagonal(torch.tensor([[6.0, 7.0]]), torch.tensor([[2.0, 0.0]]))
        tensor([[3., 0.]])
    """
    scale = fjj + damping * fjj.mean() if damping else fjj.clone()
    return weight / scale.masked_fill_(scale == 0, torch.inf)


class QuasiDiagonal(AbstractTransform[UnitFisher]):
    r"""Steps along the quasi-diagonal natural gradient of each unit in Linear and Conv2d layers.

    .. math:: \Delta w_j = \frac{g_j - g_0 F_{0j}/F_{00}}{F_{jj} - F_{0j}^2/F_{00}}, \qquad
        \Delta b = \frac{g_0}{F_{00}} - \sum_j \frac{F_{0j}}{F_{00}}\,\Delta w_j

    with :math:`F_{00}, F_{0j}, F_{jj}` the means over samples of :math:`\delta^2, \delta^2 a_j, \delta^2 a_j^2`. What
    the network computes after a step does not depend on how the values of its units are shifted and scaled: a net of
    logistic units and its twin of tanh units stay one function (with `damping=0`; K-FAC's promise is for whole layers).
    What `quasi_diagonal` does with inputs that never change holds here.

    The step has the natural gradient's size, not SGD's: start from lr 0.005 to 0.05, as correlated inputs each take
    their step in full. Parameters of other layers keep their gradient; give them a group with an lr of its own. Layers
    without a bias are divided by the diagonal.

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
        predictions: How many losses a sample (an entry of the first dimension) brings into the mean, for "empirical":
            words of a sequence, pixels of a mask. `observe` counts them itself.
        scaler: The `torch.amp.GradScaler` of the loop, if there is one: its scale is in the deltas.
        generator: Draws the labels of "sampled"; None makes one on the logits' device, seeded with the rank.
        group: Ranks that share the batch; None is all of them.

    Raises:
        ValueError: If no layer is left, parameters are sharded (FSDP), the optimizer takes no hooks or is LBFGS, or an
            argument is out of its range.

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
        self._gain = 0  # what deltas are multiplied with before they are squared: the first batch's size, or 1
        self._scratch = torch.empty(0)
        super().__init__(model, optimizer, biased=False, ema=ema, scaler=scaler, group=group)

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
        share = (logits.shape[-1] / max(logits[0].numel(), 1)) ** 0.5  # of a sample's predictions
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
            self._gain = max(use.samples, 1) * self._predictions if self._is_mean else 1
        return unit_fisher(a, delta, 0, self._gain)

    def _zeros(self, layer: Stepped) -> UnitFisher:
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        zeros = torch.zeros(len(layer.weight), layer.features, dtype=dtype, device=layer.weight.device)
        return UnitFisher(zeros.new_zeros((), dtype=torch.float64), zeros.sum(1), zeros, zeros)

    def _freed(self, layer: Stepped, sums: UnitFisher, samples: int) -> UnitFisher:
        del layer
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

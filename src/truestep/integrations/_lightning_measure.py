"""What a real Lightning run accumulates, window by window: how many micro-batches, how scaled, how weighted."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import Optimizer

from truestep.core import squared_norm
from truestep.integrations._lightning_base import Callback, gradients, refuse, require_lightning, scalar

KEPT: Final = 1000
ROUNDING: Final = 1e-9
SHORT: Final = (
    "AccumulationMonitor: a window had {seen} of {expected} micro-batches, and its gradient is {factor:.3f} of their "
    "mean: ShortWindow() makes it the mean, TallyCallback(tally) that over all terms"
)
RAGGED: Final = (
    "AccumulationMonitor: micro-batches of unequal counts have equal weight, so that some of their terms had up to "
    "{worst:.3f} times the weight they should have, or as much too little: TallyCallback(tally) is exact"
)


def weight_ratios(
    counts: Float64[Tensor, " window"], factor: float, total: Float64[Tensor, ""]
) -> Float64[Tensor, " window"]:
    r"""Weight that a term of each micro-batch has, over its weight in the mean of all: :math:`(f/k) / (n_i / N)`.

    Args:
        counts: Terms of each of the k micro-batches, :math:`n_i`.
        factor: By which the window is short, k/K; 1 where it is not, or is mended.
        total: Terms of the window, :math:`N`; on R ranks that of all of them over R.

    Example:
        >>> weight_ratios(torch.tensor([1.0, 3.0]).double(), factor=0.5, total=torch.tensor(4.0).double())
        tensor([1.0000, 0.3333], dtype=torch.float64)
    """
    return factor / len(counts) * total / counts


@dataclass(frozen=True, slots=True)
class AccumulatedWindow:
    """What one optimizer step of a real run was made from.

    Args:
        num_micro_batches: Backward passes of this rank, k.
        accumulate_grad_batches: K, by which Lightning divided each loss.
        factor: What the gradient is of the mean over the micro-batches: k/K, or 1 behind a callback that mends it.
        grad_norm: Of the gradient as it is then, before clipping; on the device.
        weight_ratios: By what factor a term of each micro-batch counts too much; None where counts are not known.
    """

    num_micro_batches: int
    accumulate_grad_batches: int
    factor: float
    grad_norm: Float64[Tensor, ""]
    weight_ratios: Float64[Tensor, " window"] | None = None


class AccumulationMonitor(Callback):
    r"""Measures each window of a real run in `on_before_optimizer_step`, and changes nothing.

    Lightning divides each loss by K = `accumulate_grad_batches`, also in an epoch's last window of k < K micro-batches:
    the gradient is k/K of their mean. And it adds means: a term of micro-batch i weighs :math:`1/(K n_i)` where the
    mean over all N terms gives it :math:`1/N`. Both are in `windows`, the last 1000, and factor and norm in the run's
    logger. Each is warned of once, with what mends it. Nothing is copied to the host but one number an epoch.

    Behind `ShortWindow` the factor is 1; behind `TallyCallback` the weights are right too. Under "16-mixed" with an
    optimizer that unscales inside its step (fused), the norm is still multiplied by the loss scale.

    Args:
        count: Number of terms that `training_step`'s mean is over, of a batch: kept targets,
            `lambda batch: (batch["labels"] != -100).sum()`. None: not measured.

    Raises:
        ValueError: In `setup`: manual optimization, or a callback behind this one that changes the gradient.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> monitor = AccumulationMonitor()
        >>> trainer = Trainer(accumulate_grad_batches=4, callbacks=[monitor], accelerator="cpu", logger=False)
        >>> [window.factor for window in monitor.windows]  # after trainer.fit(module) with 6 batches: [1.0, 0.5]
        []

    References:
        Lightning 2.6, `ClosureResult.from_training_step_output`; Lightning issue 19987.
    """

    def __init__(self, count: Callable[[Any], int | Tensor] | None = None) -> None:
        require_lightning()
        self.windows: deque[AccumulatedWindow] = deque(maxlen=KEPT)
        self._count = count
        self._now: Tensor | None = None  # terms of the batch that is being trained on
        self._counts: list[Tensor] = []
        self._seen = 0
        self._worst: Tensor | None = None
        self._mended = self._exact = False
        self._warned: set[str] = set()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See who mends the gradient before it is measured."""
        del stage
        refuse(trainer, pl_module)
        place = trainer.callbacks.index(self)
        for other in trainer.callbacks[place + 1 :]:
            if getattr(other, "mends_windows", False):
                msg = (
                    f"`callbacks` must have {type(other).__name__} before AccumulationMonitor, which measures its work"
                )
                raise ValueError(msg)
        before = trainer.callbacks[:place]
        self._exact = any(getattr(other, "mends_weights", False) for other in before)
        self._mended = any(getattr(other, "mends_windows", False) for other in before)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """A window never goes on into the next epoch."""
        del trainer, pl_module
        self._begin()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count."""
        del trainer, batch_idx
        if self._count is not None:
            terms = self._count(batch)
            self._now = (
                terms.detach().to(pl_module.device, torch.float64)
                if isinstance(terms, Tensor)
                else scalar(terms, pl_module)
            )

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """One more micro-batch."""
        del trainer, pl_module, loss
        self._seen += 1
        if self._now is not None:
            self._counts.append(self._now)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Measure the window."""
        expected, seen = trainer.accumulate_grad_batches, self._seen
        if seen:
            factor = 1.0 if self._mended else seen / expected
            ratios = self._ratios(trainer, factor) if self._counts else None
            norm = squared_norm(gradients(optimizer)).sqrt()
            self.windows.append(AccumulatedWindow(seen, expected, factor, norm, ratios))
            if trainer.loggers:
                pl_module.log_dict({"accumulation_factor": factor, "accumulated_grad_norm": norm})
            if factor != 1:
                self._warn(SHORT, seen=seen, expected=expected, factor=factor)
        self._begin()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Say how unequal the counts were."""
        del trainer, pl_module
        if self._worst is not None:
            worst = float(self._worst)
            if worst > 1 + ROUNDING:
                self._warn(RAGGED, worst=worst)

    def _begin(self) -> None:
        self._seen, self._counts = 0, []

    def _ratios(self, trainer: Any, factor: float) -> Tensor:
        counts = torch.stack(self._counts)
        if self._exact:
            return torch.ones_like(counts)
        total = counts.sum()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(total)
            total /= trainer.world_size
        ratios = weight_ratios(counts, factor, total)
        off = torch.maximum(ratios / factor, factor / ratios)
        worst = off.where(off.isfinite(), 1.0).max()  # a micro-batch without terms has no weight to be wrong
        self._worst = worst if self._worst is None else torch.maximum(self._worst, worst)
        return ratios

    def _warn(self, words: str, **numbers: int | float) -> None:
        if words not in self._warned:
            self._warned.add(words)
            warnings.warn(words.format(**numbers), stacklevel=2)

"""Lightning: exact gradients over windows of micro-batches, and a check of what a `Trainer` accumulates."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from truestep.core import SumCount, scale_
from truestep.integrations._lightning_base import Callback, gradients, refuse, require_lightning, scalar
from truestep.integrations._lightning_measure import AccumulatedWindow, AccumulationMonitor
from truestep.integrations._restored import restored
from truestep.loss import Tally
from truestep.loss.accumulation._accumulation import AccumulationCheck, check_accumulation

__all__ = ["AccumulatedWindow", "AccumulationMonitor", "ShortWindow", "TallyCallback", "check"]

QUIET: Final[dict[str, Any]] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 1,
    "limit_val_batches": 0,
    "devices": 1,
}


class ShortWindow(Callback):
    r"""Makes the last window of an epoch a mean over the micro-batches it really had.

    Lightning divides every loss by K = `accumulate_grad_batches`, and steps after the epoch's last batch whether or
    not K were seen: k micro-batches give k/K of their mean gradient. This multiplies by :math:`K/k` in
    `on_before_optimizer_step`: after unscaling and before clipping. k counts backward passes, over all ranks, so a
    `training_step` that returned None has no share in the mean. Full windows are not touched.

    It is exact where every micro-batch's mean has the same number of terms; for ragged ones use `TallyCallback`.

    Note: Fused optimizers under "16-mixed" unscale inside their step; a factor commutes with that.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(accumulate_grad_batches=4, callbacks=[ShortWindow()], **QUIET, accelerator="cpu")

    References:
        Lightning 2.6, `ClosureResult.from_training_step_output`; Lightning issue 19987.
    """

    mends_windows: Final = True

    def __init__(self) -> None:
        require_lightning()
        self._seen = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot be mended."""
        del stage
        refuse(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """A window never goes on into the next epoch."""
        del trainer, pl_module
        self._seen = 0

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """One more micro-batch."""
        del trainer, pl_module, loss
        self._seen += 1

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Multiply by K/k."""
        window = trainer.accumulate_grad_batches * trainer.world_size
        if trainer.world_size > 1:  # another rank may have skipped one
            seen = scalar(self._seen, pl_module)
            torch.distributed.all_reduce(seen)
            scale_(gradients(optimizer), window / seen)
        elif self._seen not in (0, window):
            scale_(gradients(optimizer), scalar(window / self._seen, pl_module))
        self._seen = 0


class TallyCallback(Callback):
    r"""Finishes a `Tally` before each optimizer step: the window's exact mean, for ragged and short windows and ranks.

    `training_step` returns `tally.total(losses, mask)`. Lightning divides it by K = `accumulate_grad_batches`; this
    multiplies the gradients by K again and has the tally finish them, in `on_before_optimizer_step`: after
    unscaling and before clipping. The window's sums are then in `window`, on the device; its mean is the loss to log,
    which the total, a sum, is not. `scale="ngd"` needs unscaled gradients: under "16-mixed" an optimizer that unscales
    inside its step (fused) is refused with it.

    Args:
        tally: The one that `training_step` gives its losses to.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> tally = Tally(per="token")
        >>> callbacks = [TallyCallback(tally)]
        >>> trainer = Trainer(accumulate_grad_batches=4, callbacks=callbacks, **QUIET, accelerator="cpu")
    """

    mends_windows: Final = True
    mends_weights: Final = True

    def __init__(self, tally: Tally) -> None:
        require_lightning()
        self.tally = tally
        self.window: SumCount | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot be mended."""
        del stage
        refuse(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse a norm of scaled gradients."""
        del pl_module
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        fused = any(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in trainer.optimizers)
        if self.tally.scale == "ngd" and scaled and fused:
            msg = "`scale='ngd'` needs unscaled gradients, which a fused optimizer has only in its step: fused=False"
            raise ValueError(msg)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """A window never goes on into the next epoch."""
        del trainer, pl_module
        self.tally.begin()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Undo the division by K, and finish."""
        num = trainer.accumulate_grad_batches
        if num > 1:
            scale_(gradients(optimizer), scalar(num, pl_module))
        self.window = self.tally.finish(p for group in optimizer.param_groups for p in group["params"])

    def state_dict(self) -> dict[str, Any]:
        """The tally's."""
        return self.tally.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The tally's."""
        self.tally.load_state_dict(state_dict)


def check(
    module: nn.Module,
    loss_fn: Callable[[Any, Any], Any],
    micro_batches: Iterable[Any],
    **trainer_args: Any,
) -> AccumulationCheck:
    """What a Lightning `Trainer` accumulates over a window and over half of it, against the union batch.

    A real `Trainer(**trainer_args)` fits the module on the micro-batches, and is stopped where it would clip and step:
    after all `on_before_optimizer_step` hooks, so that callbacks which mend the gradient count. Everything is put back,
    as in `truestep.loss.check_accumulation`, which makes the comparison.

    Args:
        module: A LightningModule with automatic optimization.
        loss_fn: The module's loss as `loss_fn(module, batch)`: a scalar mean, or `(losses, weights)`.
        micro_batches: One window: `accumulate_grad_batches` batches.
        trainer_args: As the run's: `accumulate_grad_batches=4, callbacks=[ShortWindow()], precision=...`; by default on
            one device, without logger, checkpoints and progress bar.

    Raises:
        ValueError: Manual optimization, or a strategy that accumulates by itself.

    Example:
        >>> from lightning.pytorch import LightningModule
        >>> def loss_fn(module, x):
        ...     return module.net(x).square().mean()
        >>> class Module(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = torch.nn.Linear(3, 1)
        ...     def training_step(self, x):
        ...         return loss_fn(self, x)
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> batches, window = torch.randn(4, 8, 3), {"accumulate_grad_batches": 4, "accelerator": "cpu"}
        >>> print(f"{check(Module(), loss_fn, batches, **window).short.ratio:.3f}")
        0.500
        >>> check(Module(), loss_fn, batches, **window, callbacks=[ShortWindow()]).ok
        True
    """
    require_lightning()

    def backward(model: Any, batches: Sequence[Any]) -> None:
        for parameter, grad in _played(model, batches, trainer_args):
            parameter.grad = grad

    with restored(module):
        return check_accumulation(module, loss_fn, micro_batches, backward)


class _StoppedError(Exception):
    """Raised where the gradients are complete, to end a fit."""


def _played(module: Any, batches: Sequence[Any], trainer_args: dict[str, Any]) -> list[tuple[nn.Parameter, Tensor]]:
    """Gradients before clipping and stepping, on the devices that their parameters are on outside the fit."""
    from lightning.pytorch import Trainer

    found: dict[str, Tensor] = {}

    def stop(*_: Any, **__: Any) -> None:
        found.update((n, p.grad.detach().clone()) for n, p in module.named_parameters() if p.grad is not None)
        raise _StoppedError

    module.configure_gradient_clipping = stop
    loader = DataLoader(list(batches), batch_size=None, collate_fn=_as_it_is)  # pyright: ignore[reportArgumentType]
    with _silence():
        trainer = Trainer(**{**QUIET, **trainer_args})
        refuse(trainer, module)
        with suppress(_StoppedError):
            trainer.fit(module, loader)
    return [(p, found[n].to(p.device)) for n, p in module.named_parameters() if n in found]


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _silence() -> Generator[None, None, None]:
    """Without Lightning's greeting and advice, which are about training runs."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

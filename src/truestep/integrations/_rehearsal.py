"""A window of a transformers `Trainer`, played without training: its gradient, and the one it should have."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from truestep.integrations._labels import IGNORED, Per, known, num_targets, without_first
from truestep.integrations._restored import restored
from truestep.integrations._trainer import MAKES
from truestep.loss.accumulation._window import preserved, taken

Batch = Mapping[str, Any]
SEED: Final = 20_231  # every micro-batch starts from the same random numbers each time it is played
DIVIDE: Final = "divide the sum of its losses by `num_items_in_batch`"


@contextmanager
def rehearsal(trainer: Any) -> Generator[None, None, None]:
    """Put back all that playing windows changes: weights, gradients, buffers, modes, RNG, and attributes.

    Attributes are those of the trainer, its accelerator, the gradient state that all accelerators share, the model
    (autocast replaces its `forward`) and its config (some heads write their `problem_type`).
    """
    holders = [trainer, trainer.accelerator, trainer.accelerator.gradient_state, trainer.model]
    if hasattr(trainer.model, "config"):
        holders.append(trainer.model.config)
    with preserved(trainer.model), restored(*holders):
        yield


class Rehearsal:
    """Plays windows of a trainer inside `rehearsal`; a micro-batch meets the same random numbers every time.

    Args:
        trainer: A transformers `Trainer`.
        per: What its loss is meant to be a mean of.
    """

    def __init__(self, trainer: Any, per: Per) -> None:
        self._trainer = trainer
        self._per: Per = known(per)
        self.mixed_precision: str = trainer.accelerator.mixed_precision
        self._model = trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True)  # autocast, but no DDP
        self._scaled = trainer.args.average_tokens_across_devices and trainer.compute_loss_func is not None

    @property
    def remedy(self) -> str:
        """What to change in this trainer where a loss must be summed, counted and divided once."""
        if type(self._trainer).compute_loss.__module__ != "transformers.trainer":
            return f"let `{type(self._trainer).__name__}.compute_loss` {DIVIDE}, and set loss_is_scaled_for_ga=True"
        if self._trainer.compute_loss_func is not None:
            return f"let `compute_loss_func` {DIVIDE}: truestep.integrations.transformers.Loss() does"
        if hasattr(self._trainer.model, MAKES):
            return "truestep.integrations.transformers.Loss().attach(trainer)"
        return "pass compute_loss_func=truestep.integrations.transformers.Loss() to the Trainer"

    def accumulated(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Gradient that the Trainer's own `training_step`s leave for one window, averaged over ranks as DDP does."""
        trainer, num = self._trainer, len(batches)
        samples, items = trainer.get_batch_samples(iter(copy.deepcopy(batches)), num, trainer.args.device)
        trainer.current_gradient_accumulation_steps = len(samples)
        for i, inputs in enumerate(samples):
            trainer.accelerator.gradient_state._set_sync_gradients(i == num - 1)
            self._seed(i)
            trainer.training_step(self._model, inputs, items)
        return self._taken(_world() * self._scale)

    def means(self, batches: Sequence[Batch], counts: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Gradient of each micro-batch's own mean loss, on all ranks: rank by rank."""
        own = list(zip(batches, counts, strict=True))
        found: list[dict[str, Tensor]] = []
        for rank in range(_world()):
            for i in range(self.most(len(batches))):
                if i < len(own) and rank == _rank() and own[i][1] > 0:
                    self._mean_loss(i, *own[i]).backward()
                found.append(self._taken(1.0))
        return [gradients for gradients in found if gradients]

    def most(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        if _world() == 1:
            return number
        most = torch.tensor(number, device=self._trainer.args.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    def reference(self, batches: Sequence[Batch], counts: Sequence[Tensor]) -> dict[str, Tensor]:
        r"""Gradient of the window's mean over all ranks, :math:`\sum_i n_i \nabla L_i / \sum_i n_i`."""
        for i, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            if count > 0:  # all ignored: the mean is 0/0
                (self._mean_loss(i, batch, count) * count.to(self._trainer.args.device) * self._scale).backward()
        return self._taken(float(self.total(counts)) * self._scale)

    def total(self, counts: Sequence[Tensor]) -> Tensor:
        """The window's targets over all ranks."""
        total = torch.stack([count.to(self._trainer.args.device) for count in counts]).sum()
        if _world() > 1:
            dist.all_reduce(total)
        return total

    def counts(self, batches: Sequence[Batch], *, shift: bool) -> list[Tensor]:
        """Targets of each micro-batch."""
        return [num_targets(batch, self._per, shift) for batch in batches]

    def shifts(self, batches: Sequence[Batch]) -> bool:
        """Whether a first label that is kept has no part in the loss, on any rank: then it is no target."""
        kept = (
            (i, labels)
            for i, batch in enumerate(batches)
            if isinstance(labels := batch.get("labels"), Tensor)
            and labels.dim() > 1
            and bool((labels[..., 0] != IGNORED).any())
        )
        found = next(kept, None)
        return bool(self.most(0 if found is None else int(self._ignores_first(batches[found[0]], *found))))

    @torch.no_grad()
    def _ignores_first(self, batch: Batch, i: int, labels: Tensor) -> bool:
        count = num_targets(batch, "token", shift=False)
        other = {**batch, "labels": without_first(labels)}
        return bool(self._mean_loss(i, batch, count) == self._mean_loss(i, other, count))

    def _mean_loss(self, i: int, batch: Batch, count: Tensor) -> Tensor:
        """The micro-batch's mean: a loss function is told its own count, the model's own loss is not told any."""
        trainer = self._trainer
        items = None if trainer.compute_loss_func is None else count.to(trainer.args.device)
        self._seed(i)
        self._model.train()
        with trainer.compute_loss_context_manager():
            inputs = trainer._prepare_inputs(copy.deepcopy(batch))
            loss = trainer.compute_loss(self._model, inputs, num_items_in_batch=items)
        return loss / trainer.accelerator.num_processes if self._scaled else loss

    def _seed(self, i: int) -> None:
        random.seed(SEED + i)
        if self._trainer.args.device.type == "cpu":  # a device that nobody has used yet would keep the seed for later
            torch.default_generator.manual_seed(SEED + i)
        else:
            torch.manual_seed(SEED + i)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(SEED + i)

    @property
    def _scale(self) -> float:
        """What fp16 losses are multiplied by."""
        scaler = self._trainer.accelerator.scaler
        return 1.0 if scaler is None else scaler.get_scale()

    def _taken(self, divisor: float) -> dict[str, Tensor]:
        """Gradients added up over ranks, divided by `divisor`."""
        grads = taken(self._trainer.model)
        if _world() > 1:  # every rank must ask for the same tensors
            trained = {n: p for n, p in self._trainer.model.named_parameters() if p.requires_grad}
            grads = {name: grads.get(name, torch.zeros_like(p)) for name, p in trained.items()}
            for grad in grads.values():
                dist.all_reduce(grad)
        return {name: grad / divisor for name, grad in grads.items()}


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

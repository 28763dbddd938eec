"""The lengths wanted of the steps, from whatever they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import Optimizer

from truestep.compare.step_matched._blocks import Blocks
from truestep.compare.step_matched._reference import Reference
from truestep.compare.step_matched._replay import Replay
from truestep.compare.step_matched._schedule import Count, Length, Schedule, check_shape, length_at


class Wanted:
    """Lengths of a schedule, of a record, or of the steps of another optimizer.

    Args:
        length: As `StepMatched` takes it.
        optimizer: The one whose steps are to have them.
        blocks: What has a length.
        norm: What is called a length.
        floor: Of the relative norm.
        decay_out: Whether the steps are without weight decay.
    """

    def __init__(
        self, length: Length, optimizer: Optimizer, blocks: Blocks, norm: Any, floor: float, *, decay_out: bool
    ) -> None:
        self._optimizer, self._norm = optimizer, norm
        self._schedule: Schedule = torch.nan
        self.reference: Reference | None = None
        self._record: Replay | None = None
        self._read_for: tuple[float, list[int]] | None = None
        self._now: float | Tensor = torch.nan
        if isinstance(length, Optimizer):
            self.reference = Reference(length, optimizer, decay_out=decay_out)
        elif isinstance(length, Replay):
            self._record = length
            self._read(blocks, floor)
        else:
            self._schedule = length

    def begin(self, blocks: Blocks, floor: float, step: Count) -> None:
        """Before the step of this number, of these blocks.

        Raises:
            ValueError: If there is no length for the step, or a tensor of neither one nor one for each block.
        """
        if self.reference is not None:
            self.reference.begin(blocks.params)
            return
        self._read(blocks, floor)
        self._now = length_at(self._schedule, step, self._norm)
        if isinstance(self._now, Tensor):
            check_shape(self._now, len(blocks.sizes))

    def _read(self, blocks: Blocks, floor: float) -> None:
        """A record's lengths, anew where a weight was frozen or added or the floor came with a loaded state."""
        read_for = floor, [id(x) for x in blocks.params]
        if self._record is not None and self._read_for != read_for:
            names = blocks.given(self._optimizer.param_groups)
            self._schedule = self._record.lengths(blocks, names, self._norm, floor)
            self._read_for = read_for

    def of(
        self,
        before: Sequence[Tensor | None],
        like: Float64[Tensor, " blocks"],
        measured: Callable[[], Float64[Tensor, " blocks"]],
    ) -> Float64[Tensor, " blocks"]:
        """The length wanted of each block.

        Args:
            before: The weights ahead of the step.
            like: Gives device and number of blocks.
            measured: Lengths of the step that the weights have just taken.
        """
        if self.reference is not None:
            with self.reference.stepped(before, getattr(self._optimizer, "grad_scale", None)):
                return measured()
        wanted: Any = self._now  # a number is filled in: copied to the device, it would wait
        if isinstance(wanted, Tensor):
            return wanted.to(like.device, non_blocking=True).expand_as(like)
        return torch.full_like(like, wanted)

    def state_dict(self) -> dict[str, Any]:
        """The state of the other optimizer; nothing where there is none."""
        return {} if self.reference is None else {"reference": self.reference.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: If it is without the state of the other optimizer.
        """
        if self.reference is None:
            return
        if "reference" not in state:
            msg = "`state` must hold the state of the optimizer that is the `length`, found none: saved without one"
            raise ValueError(msg)
        self.reference.optimizer.load_state_dict(state["reference"])

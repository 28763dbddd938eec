"""How many steps there were, and what became of the lengths wanted of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from truestep.compare.step_matched._blocks import Blocks
from truestep.compare.step_matched._schedule import Count


class Tally:
    """Steps so far, and of the latest one wanted and taken lengths and which blocks were left unmatched, how often.

    Where only the device knows of a skipped step the count is a tensor there, and nothing waits.

    Args:
        blocks: What the lengths are of; others may come later.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.steps: Count = 0
        self.latest = _nothing(blocks)

    def note(self, blocks: Blocks, wanted: Tensor, took: Tensor, kept: Tensor, skipped: Tensor | None) -> None:
        """Count a step, unless it was skipped."""
        old = self.latest
        if old[0].shape != kept.shape:  # groups were added: other blocks from here on
            old = _nothing(blocks)
        old = tuple(x.to(kept.device) for x in old)
        new = wanted, took, kept, old[3] + kept
        if skipped is None:
            self.latest, self.steps = new, self.steps + 1
            return
        stays = skipped.reshape(()) != 0
        self.latest = tuple(torch.where(stays.to(kept.device), x, y) for x, y in zip(old, new, strict=True))
        steps = self.steps
        steps = steps if isinstance(steps, Tensor) else torch.full((), steps, dtype=torch.long, device=stays.device)
        self.steps = torch.where(stays, steps, steps + 1)

    def state_dict(self) -> dict[str, Any]:
        """Copies of both."""
        steps = self.steps.clone() if isinstance(self.steps, Tensor) else self.steps
        return {"steps": steps, "latest": [x.clone() for x in self.latest]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: If it is of another number of blocks.
        """
        latest, expected = state["latest"], self.latest[0].shape
        if any(x.shape != expected for x in latest):
            found = tuple(latest[0].shape)
            msg = (
                f"`state` must be of {expected[0]} blocks, found {found}; give the `scope` and groups it was saved with"
            )
            raise ValueError(msg)
        steps: Count = state["steps"]
        self.steps = steps.to(self.latest[0].device) if isinstance(steps, Tensor) else steps
        self.latest = tuple(x.to(old) for x, old in zip(latest, self.latest, strict=True))


def _nothing(blocks: Blocks) -> tuple[Tensor, ...]:
    """Wanted and taken lengths, who was left unmatched and how often, before the first step."""
    count = len(blocks.sizes)
    on = blocks.params[0].device
    none = torch.full((count,), torch.nan, dtype=torch.float64, device=on)
    return none, none.clone(), torch.zeros(count, dtype=torch.bool, device=on), none.new_zeros(count, dtype=torch.long)

"""What became of the wanted lengths."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float64, Int64
from torch import Tensor

_LISTED = 10  # blocks


@dataclass(frozen=True, slots=True)
class MatchReport:
    """The latest step, block by block, and how often blocks were left unmatched.

    Args:
        steps: Steps so far, skipped ones not counted.
        norm: What is called a length.
        names: Blocks: "all", "group 0", a weight's name, a unit "fc.weight[3]".
        wanted: Length that was asked of the latest step; nan before the first.
        took: Length that it has: the wanted, or another where `kept`.
        kept: Whether the block kept the step that the optimizer took: it did not move, its angle cannot be reached,
            or its step is not finite; or, of weights of 16 bits, it was rounded to more than 1 % off. Of the norm
            "function" also whether the step is the nearest that was found, more than 1e-5 (or what the outputs' digits
            allow, at most 1 %) off the wanted length.
        kept_steps: Number of such steps so far.
    """

    steps: int
    norm: str
    names: tuple[str, ...]
    wanted: Float64[Tensor, " blocks"]
    took: Float64[Tensor, " blocks"]
    kept: Bool[Tensor, " blocks"]
    kept_steps: Int64[Tensor, " blocks"]

    @property
    def unmatched(self) -> dict[str, float]:
        """Length that each block took which has not the wanted one."""
        rows = zip(self.names, self.took.tolist(), self.kept.tolist(), strict=True)
        return {name: took for name, took, kept in rows if kept}

    def __str__(self) -> str:
        """One line for the run, one for each of the ten blocks that were left unmatched most often."""
        lines = [f"{self.steps} steps, {self.norm} matched on {len(self.names)} blocks"]
        columns = (self.kept_steps, self.kept, self.wanted, self.took)
        rows = sorted(zip(self.names, *(x.tolist() for x in columns), strict=True), key=lambda row: -row[1])
        unmatched = [row for row in rows if row[1]]
        for name, times, now, wanted, took in unmatched[:_LISTED]:
            latest = f"; the latest step wanted {wanted:.3g}, took {took:.3g}" if now else ""
            lines.append(f"  {name}: {times} of {self.steps} steps not matched{latest}")
        if (more := len(unmatched) - _LISTED) > 0:
            lines.append(f"  and {more} blocks more")
        return "\n".join(lines)

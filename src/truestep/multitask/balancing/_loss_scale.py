"""A power of two for each task's loss, so that its gradients can be written in float16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.multitask._kept import Kept
from truestep.multitask._rule import PerTask
from truestep.multitask.balancing._measure import Found, spread

Squares = Callable[[Mapping[str, Tensor]], Found]
START: Final = 2.0**10
MOST: Final = 2.0**15  # 2**16 is no float16
STEP: Final = 2.0**6  # by which an overflow or an underflow moves it
NEAR: Final = 2.0**4  # a scale so near to the wanted one is good
TRIES: Final = 8  # to find the first one


def next_scale(scale: PerTask, squares: PerTask, elements: int) -> Float64[Tensor, " tasks"]:
    """Scale under which the scaled gradients, whose sums of squares these are, would have a root mean square near 1.

    That leaves 2**16 above for what the head itself computes, and 2**14 below before precision is lost.

    Example:
        >>> next_scale(*torch.tensor([[1024.0] * 3, [4.0 * 64, 0.0, torch.inf]]).double(), elements=64).tolist()
        [512.0, 32768.0, 16.0]
    """
    root = (squares / max(elements, 1)).sqrt()
    _, exponent = torch.frexp(root)
    wanted = torch.ldexp(scale, 1 - exponent)
    wanted = torch.where(squares == 0, scale * STEP, wanted)
    wanted = torch.where(torch.isfinite(squares), wanted, scale / STEP)
    return wanted.clamp(1 / MOST, MOST)


def is_near(scale: PerTask, wanted: PerTask) -> bool:
    """Whether no task's scale is far from the wanted one; waits for the device."""
    ratio = wanted / scale
    return bool(((ratio <= NEAR) & (ratio >= 1 / NEAR)).all())


class LossScale(Kept):
    """The scale of each task's loss where it is measured: 1 but in float16, where it follows the last gradients."""

    scale: Tensor

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks = tasks
        self.found = False  # a first one
        self.register_buffer("scale", torch.full((len(tasks),), START, dtype=torch.float64))

    def fitting(self, squares: Squares, elements: int, *, half: bool) -> PerTask:
        """Scale for a pass; the first time in half precision it is tried until it fits, which waits for the device.

        Args:
            squares: The squared norms that scales lead to.
            elements: Of one gradient.
            half: Whether float16 takes part; else the scale is 1.
        """
        if not half:
            return torch.ones_like(self.scale)
        for _ in range(0 if self.found else TRIES):
            before = self.scale.clone()
            self.follow(squares(seeds(self.tasks, before)), elements)
            if is_near(before, self.scale):
                break
        self.found = True
        return self.scale.clone()

    def follow(self, squares: Found, elements: int) -> None:
        """Take the next scale from the squared norms of scaled gradients."""
        there = torch.tensor([task in squares for task in self.tasks], device=self.scale.device)
        wanted = next_scale(self.scale, spread(squares, self.tasks, self.scale.device), elements)
        self.scale.copy_(torch.where(there, wanted, self.scale))


def seeds(tasks: Sequence[str], scale: PerTask) -> dict[str, Tensor]:
    """What each task's backward begins with."""
    return dict(zip(tasks, scale.float().unbind(), strict=True))

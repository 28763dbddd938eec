"""Inner products between the gradients of several tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core._additive import AbstractSum
from truestep.core._products import chunk_elements


@dataclass(frozen=True, slots=True)
class TaskGram(AbstractSum):
    r"""Inner products :math:`\langle g_i, g_j \rangle` of the tasks' gradients at the same weights.

    Args:
        tasks: Names, in the order of rows and columns.
        gg: The Gramian, float64; parts of the parameters add up to the whole.

    Example:
        >>> g = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0, -2.0])}
        >>> task_gram(g).cosine[0, 1]
        tensor(-0.8000, dtype=torch.float64)
    """

    tasks: tuple[str, ...]
    gg: Float64[Tensor, "tasks tasks"]

    @property
    def norm(self) -> Float64[Tensor, " tasks"]:
        """Norm of each task's gradient."""
        return self.gg.diagonal().sqrt()

    @property
    def cosine(self) -> Float64[Tensor, "tasks tasks"]:
        """Cosine between each two gradients, negative where tasks conflict; nan beside a zero gradient."""
        return self.gg / torch.outer(self.norm, self.norm)


def task_gram(gradients: Mapping[str, Tensor]) -> TaskGram:
    """The `TaskGram` of one gradient a task, all of one shape; any float dtype, summed in float64.

    Raises:
        ValueError: If there is no task, or shapes differ.
    """
    if not gradients:
        raise ValueError("`gradients` must hold at least one task's gradient, found none")
    flat = {name: gradient.detach().reshape(-1) for name, gradient in gradients.items()}
    shapes = {name: tuple(gradient.shape) for name, gradient in gradients.items()}
    if len(set(shapes.values())) > 1:
        msg = f"`gradients` must have one shape for all tasks, found {shapes}"
        raise ValueError(msg)
    rows = list(flat.values())
    gg = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows[0].device)
    size = chunk_elements(rows[0].device)
    for start in range(0, rows[0].numel(), size):
        part = torch.stack([row[start : start + size].double() for row in rows])
        gg += part @ part.T
    return TaskGram(tuple(flat), gg)

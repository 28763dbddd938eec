"""What the Hessian and the GGN have in common: a symmetric product, and what a finite difference can see of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from truestep.conditioning.curvature._problem import Problem


class AbstractCurvature(ABC):
    """A symmetric matrix at the weights as they are, by its products.

    The graph of one evaluation is kept: each product is one or two backward passes. It is spent when the weights
    change, and torch then says that a variable was modified.

    Args:
        problem: Model, batch and loss.
    """

    slope: list[Tensor]  # the field whose derivative along a direction is `change`
    loss: float
    drew: bool  # whether the loss drew random numbers: then it is the curvature of one draw

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.products = 0

    def product(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """The matrix times a vector, tensor by tensor in the order of the parameters."""
        self.products += 1
        return self.back(self.change(vectors))

    @abstractmethod
    def change(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """How `slope` changes along a direction of the parameters, per unit of it."""

    @abstractmethod
    def back(self, change: Sequence[Tensor]) -> list[Tensor]:
        """From a change of `slope` to the parameters."""

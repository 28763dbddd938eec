"""The record of a look at the curvature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float64
from torch import Tensor

from truestep.conditioning.curvature._edge import edge

Matrix = Literal["hessian", "ggn"]


@dataclass(frozen=True, slots=True)
class Sharpness:
    r"""Largest eigenvalues of the loss's curvature, and how they were found.

    Args:
        eigenvalues: In falling order, in 1/weight² (of the loss); with a preconditioner in 1/lr.
        matrix: "hessian" or "ggn".
        preconditioned: Whether they are those of :math:`P^{-1/2} H P^{-1/2}`.
        train_mode: Whether the model was in train mode, as the user had it.
        loss: The mean loss of the batch.
        products: Products of the matrix that it took, checks included.
        other_mode: About the largest eigenvalue in the other mode (to 10 % or so); the same where modes do not matter;
            None where the model does not run in it.
        asymmetry: How asymmetric the matrix was found, 1 being not symmetric at all.
        difference: Relative difference from a finite difference along the first eigenvector.
        warnings: What to know before believing it.

    Example:
        >>> import torch
        >>> found = Sharpness(torch.tensor([30.0], dtype=torch.float64), loss=1.5, products=22)
        >>> print(found)
        sharpness 30 (hessian, train mode, loss 1.5, 22 products)
        >>> found.times_lr(0.1), found.at_edge(0.1)
        (3.0, 1.5)
    """

    eigenvalues: Float64[Tensor, " k"]
    matrix: Matrix = "hessian"
    preconditioned: bool = False
    train_mode: bool = True
    loss: float = float("nan")
    products: int = 0
    other_mode: float | None = None
    asymmetry: float = 0.0
    difference: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The largest eigenvalue: the sharpness."""
        return float(self.eigenvalues[0])

    def times_lr(self, lr: int | float) -> float:
        """The sharpness times lr: plain gradient descent on such a parabola diverges above 2."""
        return self.value * lr

    def at_edge(
        self, lr: int | float, momentum: int | float = 0.0, *, nesterov: bool = False, averaged: bool = False
    ) -> float:
        """The sharpness over the `edge` of the rule: above 1 the step diverges on such a parabola.

        Adam's: `at_edge(lr, beta1, averaged=True)`, of a sharpness that was preconditioned.
        """
        return self.value / edge(lr, momentum, nesterov=nesterov, averaged=averaged)

    def __str__(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.eigenvalues.tolist())
        matrix = f"{self.matrix}, preconditioned" if self.preconditioned else self.matrix
        mode = "train" if self.train_mode else "eval"
        head = f"sharpness {values} ({matrix}, {mode} mode, loss {self.loss:.4g}, {self.products} products)"
        return "\n".join([head, *(f"warning: {text}" for text in self.warnings)])

"""Products of the Hessian with a vector, by double backward: right in train mode too, where batches have statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from truestep.conditioning.curvature._operator import AbstractCurvature
from truestep.conditioning.curvature._problem import LossFn, Problem, differentiated, problem, tensors_of


def hessian_product(model: nn.Module, batch: Any, loss_fn: LossFn, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Second derivative of the mean loss times a vector, in 1/weight² times the vector's unit.

    .. math:: H v = \nabla_w \langle \nabla_w L(w), v \rangle

    One forward and two backward passes. L is the mean loss that `loss_fn` gives (the mean over weights where it gives
    losses and weights); a sum over N terms has N times this Hessian. Train or eval mode is taken as it is; buffers,
    gradients and random state are put back. Under DDP each rank looks at its own batch.

    Args:
        model: The model, bare or wrapped by DDP or torch.compile.
        batch: What `loss_fn` takes.
        loss_fn: `loss_fn(model, batch)` gives a scalar mean, or unreduced losses and their weights.
        vector: A tensor for each parameter that requires a gradient, by name.

    Returns:
        The product, by name.

    Raises:
        ValueError: If names or shapes differ, or the loss is not finite or has no gradient.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> hessian_product(model, x, lambda model, x: model(x).square().mean(), {"weight": torch.tensor([[1.0, 1.0]])})
        {'weight': tensor([[1., 4.]])}

    References:
        Pearlmutter (1994), Fast exact multiplication by the Hessian.
    """
    one = problem(model, batch, loss_fn)
    found = Hessian(one).product(tensors_of(one, vector))
    return dict(zip(one.parameters, found, strict=True))


class Hessian(AbstractCurvature):
    """The Hessian of the mean loss; its slope is the gradient.

    Backward through a backward, not forward through it: for `nn.BatchNorm1d` in train mode `jvp(jacrev(loss))` of torch
    2.13 gives a wrong derivative of the gain's gradient (tests/conditioning/curvature/test_hessian_product.py).
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        with problem.undisturbed():
            loss, self.drew = problem.loss()
            self.slope = differentiated([loss], problem.tensors, [torch.ones_like(loss)], graph=True)
        self.loss = float(loss.detach())

    def change(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """The Hessian times the direction."""
        return differentiated(self.slope, self.problem.tensors, vectors)

    def back(self, change: Sequence[Tensor]) -> list[Tensor]:
        """The change itself: the gradient is one of the parameters."""
        return list(change)

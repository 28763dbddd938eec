"""Lion: the sign of a mix of the gradient and its average; the average itself is slower."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, _foreach_lerp, _foreach_lerp_, _foreach_sign_  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

from truestep.compare._elementwise import AbstractElementwise, Group, Lr, State


def lion_direction(
    gradient: Float[Tensor, "*shape"], average: Float[Tensor, "*shape"], beta1: int | float, beta2: int | float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    r"""The direction u and the average m after it; u is read from the average before.

    .. math:: u_t = \operatorname{sign}\bigl(\beta_1 m_{t-1} + (1-\beta_1)\, g_t\bigr), \qquad
        m_t = \beta_2 m_{t-1} + (1-\beta_2)\, g_t

    Example:
        >>> import torch
        >>> lion_direction(torch.tensor([1.0, -1.0]), torch.tensor([-0.5, -0.5]), 0.5, 0.75)
        (tensor([ 1., -1.]), tensor([-0.1250, -0.6250]))
    """
    return average.lerp(gradient, 1 - beta1).sign(), average.lerp(gradient, 1 - beta2)


@final
class Lion(AbstractElementwise):
    r"""Moves every element by lr, towards the sign of the gradient mixed with its average.

    .. math:: u_t &= \operatorname{sign}\bigl(\beta_1 m_{t-1} + (1-\beta_1)\, g_t\bigr) \\
        w_t &= w_{t-1} - \eta\,(u_t + \lambda\, w_{t-1}) \\
        m_t &= \beta_2 m_{t-1} + (1-\beta_2)\, g_t

    Without weight decay the step is :math:`\eta` in the linf norm and :math:`\eta\sqrt{n}` in l2: neither the size of
    the loss nor its reduction (mean or sum) enters. So lr is smaller than Adam's, and weight decay larger, by the same
    factor (the paper: 3 to 10). With equal betas Lion is `SignSGD` with that momentum.

    Args:
        params: Parameters, or groups of them, as in `torch.optim`.
        lr: Length :math:`\eta` of each element's step, in the weight's unit; also a tensor of one element.
        betas: :math:`\beta_1` of the mix that is stepped along, :math:`\beta_2` of the average that is kept.
        weight_decay: :math:`\lambda`, decoupled from the sign.
        foreach: True steps a group's weights together by torch's foreach kernels, False one by one; None takes the
            first on CUDA. They give the same step.

    Raises:
        ValueError: If a setting is out of range (at once, also in a group), or a gradient is sparse (at the step,
            before any weight is moved).

    Note:
        A complex weight counts as its two real parts.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = Lion([weight], lr=0.1, weight_decay=0.5)
        >>> weight.grad = torch.tensor([1e-6, -1e6])
        >>> optimizer.step()
        >>> weight.data
        tensor([0.8500, 1.0500])

    References:
        Chen, Liang, Huang, Real, Wang, Liu, Pham, Dong, Luong, Hsieh, Lu and Le, "Symbolic Discovery of Optimization
        Algorithms", NeurIPS 2023, algorithm 2 (lr and its ratio to Adam's: section 5).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Lr = 1e-4,
        *,
        betas: tuple[int | float, int | float] = (0.9, 0.99),
        weight_decay: int | float = 0.0,
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, lr, weight_decay, foreach, betas=betas)

    def _start(self, weight: Tensor, group: Group) -> State:  # noqa: ARG002
        return {"exp_avg": torch.zeros_like(weight)}

    def _direction(self, gradient: Tensor, state: State, group: Group) -> Tensor:
        direction, average = lion_direction(gradient, state["exp_avg"], *group["betas"])
        state["exp_avg"].copy_(average)
        return direction

    def _directions(self, gradients: list[Tensor], states: list[State], group: Group) -> list[Tensor]:
        beta1, beta2 = group["betas"]
        averages = [state["exp_avg"] for state in states]
        directions = [*_foreach_lerp(averages, gradients, 1 - beta1)]
        _foreach_sign_(directions)
        _foreach_lerp_(averages, gradients, 1 - beta2)
        return directions

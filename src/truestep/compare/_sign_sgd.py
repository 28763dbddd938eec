"""SignSGD and Signum: every element of a weight moves by lr, in the direction of a sign."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, _foreach_lerp_, _foreach_sign  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

from truestep.compare._elementwise import AbstractElementwise, Group, Lr, State


def sign_sgd_direction(
    gradient: Float[Tensor, "*shape"], average: Float[Tensor, "*shape"], momentum: int | float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    r"""The direction sign(m), and the average m of the gradients that it is the sign of.

    .. math:: m_t = \mu\, m_{t-1} + (1-\mu)\, g_t, \qquad u_t = \operatorname{sign}(m_t)

    Example:
        >>> import torch
        >>> zeros = torch.zeros(3)
        >>> sign_sgd_direction(torch.tensor([2.0, -0.1, 0.0]), zeros, 0.5)
        (tensor([ 1., -1.,  0.]), tensor([ 1.0000, -0.0500,  0.0000]))
    """
    average = average.lerp(gradient, 1 - momentum)
    return average.sign(), average


@final
class SignSGD(AbstractElementwise):
    r"""Moves every element by lr, whatever the size of its gradient; with `momentum` it is Signum.

    .. math:: m_t = \mu\, m_{t-1} + (1-\mu)\, g_t, \qquad
        w_t = w_{t-1} - \eta\,\bigl(\operatorname{sign}(m_t) + \lambda\, w_{t-1}\bigr)

    Without weight decay the step is :math:`\eta` in the linf norm and :math:`\eta\sqrt{n}` in l2, for n elements whose
    m is not 0: neither the size of the loss nor its reduction (mean or sum) enters. An element whose m is 0 stays.

    Args:
        params: Parameters, or groups of them, as in `torch.optim`.
        lr: Length :math:`\eta` of each element's step, in the weight's unit; also a tensor of one element.
        momentum: Decay :math:`\mu` of the average m, at least 0 and below 1. At 0 nothing is kept of a weight.
        weight_decay: :math:`\lambda`, decoupled from the sign.
        foreach: True steps a group's weights together by torch's foreach kernels, False one by one; None takes the
            first on CUDA. They give the same step.

    Raises:
        ValueError: If a setting is out of range (at once, also in a group), or a gradient is sparse (at the step,
            before any weight is moved).

    Note:
        A complex weight counts as its two real parts. Where a scheduler takes `momentum` to 0, m is forgotten.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
        >>> optimizer = SignSGD([weight], lr=0.1)
        >>> weight.grad = torch.tensor([1e-6, -1e6, 0.0])
        >>> optimizer.step()
        >>> weight.data
        tensor([0.9000, 1.1000, 1.0000])

    References:
        Bernstein, Wang, Azizzadenesheli and Anandkumar, "signSGD: Compressed Optimisation for Non-Convex Problems",
        ICML 2018, algorithm 1 (signSGD) and 2 (Signum); weight decay as in Bernstein, Zhao, Azizzadenesheli and
        Anandkumar, "signSGD with Majority Vote is Communication Efficient and Fault Tolerant", ICLR 2019, algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Lr = 1e-3,
        *,
        momentum: int | float = 0.0,
        weight_decay: int | float = 0.0,
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, lr, weight_decay, foreach, momentum=momentum)

    def _start(self, weight: Tensor, group: Group) -> State:
        return {"momentum_buffer": torch.zeros_like(weight)} if group["momentum"] else {}

    def _direction(self, gradient: Tensor, state: State, group: Group) -> Tensor:
        if not group["momentum"]:
            state.clear()
            return gradient.sign()
        direction, average = sign_sgd_direction(gradient, state["momentum_buffer"], group["momentum"])
        state["momentum_buffer"].copy_(average)
        return direction

    def _directions(self, gradients: list[Tensor], states: list[State], group: Group) -> list[Tensor]:
        if not group["momentum"]:
            for state in states:
                state.clear()
            return [*_foreach_sign(gradients)]
        averages = [state["momentum_buffer"] for state in states]
        _foreach_lerp_(averages, gradients, 1 - group["momentum"])
        return [*_foreach_sign(averages)]

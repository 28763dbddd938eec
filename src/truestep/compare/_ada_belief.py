"""AdaBelief: Adam whose step is divided by how far the gradient is from its average, not by its size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch import _foreach_add_ as add_  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
from torch import _foreach_addcmul_ as addcmul_  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
from torch import _foreach_copy_ as copy_  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
from torch import _foreach_div as div  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
from torch import _foreach_div_ as div_  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
from torch import _foreach_lerp_ as lerp_  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
from torch import _foreach_mul as mul  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
from torch import _foreach_sqrt_ as sqrt_  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
from torch import _foreach_sub as sub  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

from truestep.compare._elementwise import AbstractElementwise, Group, Lr, State

Real = int | float


def ada_belief_direction(
    gradient: Float[Tensor, "*shape"],
    average: Float[Tensor, "*shape"],
    variance: Float[Tensor, "*shape"],
    step: int,
    beta1: Real,
    beta2: Real,
    eps: Real,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    r"""The direction u of step t = 1, 2, ..., and the average m and the variance s that it is made of.

    .. math:: m_t &= \beta_1 m_{t-1} + (1-\beta_1)\, g_t \\
        s_t &= \beta_2 s_{t-1} + (1-\beta_2)\, (g_t - m_t)^2 + \epsilon \\
        u_t &= \frac{m_t / (1-\beta_1^t)}{\sqrt{s_t / (1-\beta_2^t)} + \epsilon}

    Example:
        >>> import torch
        >>> zero = torch.zeros(1)
        >>> ada_belief_direction(torch.tensor([4.0]), zero, zero, 1, 0.5, 0.75, 1e-16)
        (tensor([2.]), tensor([2.]), tensor([1.]))
    """
    average = average.lerp(gradient, 1 - beta1)
    surprise = gradient - average
    variance = (variance * beta2).addcmul(surprise, surprise, value=1 - beta2) + eps
    root = (variance / (1 - beta2**step)).sqrt() + eps
    return average / (1 - beta1**step) / root, average, variance


@final
class AdaBelief(AbstractElementwise):
    r"""Adam with the square of the gradient's distance from its average in the place of its square.

    .. math:: m_t &= \beta_1 m_{t-1} + (1-\beta_1)\, g_t \\
        s_t &= \beta_2 s_{t-1} + (1-\beta_2)\, (g_t - m_t)^2 + \epsilon \\
        w_t &= w_{t-1} - \eta\,\Bigl(\frac{m_t / (1-\beta_1^t)}{\sqrt{s_t / (1-\beta_2^t)} + \epsilon}
        + \lambda\, w_{t-1}\Bigr)

    The :math:`\epsilon` inside s is added at every step, so :math:`s_t/(1-\beta_2^t)` is never below
    :math:`\epsilon/(1-\beta_2)`: :math:`\epsilon` = 1e-8 is a floor of 3.2e-3 under the root, above most gradients,
    and below it AdaBelief is SGD along the average :math:`m_t/(1-\beta_1^t)` with lr
    :math:`\eta\sqrt{(1-\beta_2)/\epsilon}`. The paper's authors advise the square of Adam's :math:`\epsilon`, which is
    the default here. Above the floor the size of the loss and its reduction (mean or sum) do not enter.

    Args:
        params: Parameters, or groups of them, as in `torch.optim`.
        lr: :math:`\eta`, in the weight's unit; also a tensor of one element.
        betas: :math:`\beta_1` of the average m, :math:`\beta_2` of the variance s.
        eps: :math:`\epsilon`, above 0. In s in the gradient's unit squared; outside the root in its unit.
        weight_decay: :math:`\lambda`, decoupled as in AdamW.
        foreach: True steps a group's weights together by torch's foreach kernels, False one by one; None takes the
            first on CUDA. They give the same step up to rounding, and on the CPU the same bits.

    Raises:
        ValueError: If a setting is out of range (at once, also in a group), if `eps` is 0 in the number format of a
            weight (at its first step), or a gradient is sparse (at the step, before any weight is moved).

    Note:
        Deviation: no rectification (the authors' package has it on by default; the paper's algorithm has none) and no
        projection onto a feasible set. A complex weight counts as its two real parts.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = AdaBelief([weight], lr=0.09)
        >>> weight.grad = torch.tensor([1e-3, -1e3])
        >>> optimizer.step()
        >>> weight.data  # the first step is lr / beta1
        tensor([0.9000, 1.1000])

    References:
        Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris and Duncan, "AdaBelief Optimizer: Adapting Stepsizes by
        the Belief in Observed Gradients", NeurIPS 2020, algorithm 2; the floor: issue 57 of
        juntang-zhuang/Adabelief-Optimizer.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Lr = 1e-3,
        *,
        betas: tuple[Real, Real] = (0.9, 0.999),
        eps: Real = 1e-16,
        weight_decay: Real = 0.0,
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, lr, weight_decay, foreach, betas=betas, eps=eps)
        for group in self.param_groups:
            _check_eps(group["eps"])

    def _start(self, weight: Tensor, group: Group) -> State:
        _check_eps(group["eps"], weight.dtype)
        return {"step": 0, "exp_avg": torch.zeros_like(weight), "exp_avg_var": torch.zeros_like(weight)}

    def _direction(self, gradient: Tensor, state: State, group: Group) -> Tensor:
        (beta1, beta2), eps = group["betas"], group["eps"]
        state["step"] += 1
        direction, average, variance = ada_belief_direction(
            gradient, state["exp_avg"], state["exp_avg_var"], state["step"], beta1, beta2, eps
        )
        state["exp_avg"].copy_(average)
        state["exp_avg_var"].copy_(variance)
        return direction

    def _directions(self, gradients: list[Tensor], states: list[State], group: Group) -> list[Tensor]:
        (beta1, beta2), eps = group["betas"], group["eps"]
        for state in states:
            state["step"] += 1
        averages = [state["exp_avg"] for state in states]
        lerp_(averages, gradients, 1 - beta1)
        surprises = sub(gradients, averages)
        # not in place: on the CPU _foreach_mul_ would round beta2 = 0.999 to 1 for bfloat16 (torch 2.13)
        variances = mul([state["exp_avg_var"] for state in states], beta2)
        addcmul_(variances, surprises, surprises, 1 - beta2)
        add_(variances, eps)
        copy_([state["exp_avg_var"] for state in states], variances)
        roots = div(variances, [1 - beta2 ** state["step"] for state in states])
        sqrt_(roots)
        add_(roots, eps)
        directions = [*div(averages, [1 - beta1 ** state["step"] for state in states])]
        div_(directions, roots)
        return directions


def _check_eps(eps: Real, dtype: torch.dtype = torch.float64) -> None:
    if not 0 < eps < torch.inf or not torch.tensor(float(eps), dtype=dtype, device="cpu").item():
        msg = f"`eps` must be above 0 in {dtype}, found {eps}: an element without gradient would become nan; raise it"
        raise ValueError(msg)

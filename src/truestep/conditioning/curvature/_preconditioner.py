"""What an adaptive optimizer divides the gradient by, at this moment of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

_ADAM = ("Adam", "AdamW")  # exact names: a subclass may do something else with the same state


def adam_preconditioner(
    second_moment: Float[Tensor, "*shape"], step: int | float, *, beta1: float, beta2: float, eps: float
) -> Float[Tensor, "*shape"]:
    r"""What Adam divides the running mean of gradients by after `step` steps, in gradient unit.

    .. math:: P = (1-\beta_1^t)\left(\sqrt{\frac{v}{1-\beta_2^t}} + \epsilon\right), \qquad
        w \leftarrow w - \eta P^{-1} m

    Both bias corrections are in it, that of the first moment m as the factor in front.

    Args:
        second_moment: v, `exp_avg_sq` of the optimizer's state (with amsgrad `max_exp_avg_sq`).
        step: t, at least 1.
        beta1: :math:`\beta_1`.
        beta2: :math:`\beta_2`.
        eps: :math:`\epsilon`.

    Example:
        >>> import torch
        >>> adam_preconditioner(torch.tensor([0.004]), 1, beta1=0.9, beta2=0.999, eps=0.0)  # (1 - 0.9) sqrt(4)
        tensor([0.2000])

    References:
        Cohen et al. (2022), Adaptive gradient methods at the edge of stability, eq. 2.
    """
    return (1 - beta1**step) * ((second_moment / (1 - beta2**step)).sqrt() + eps)


def preconditioner(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Diagonal preconditioner P of an optimizer's next step, by parameter name, in the first group's lr.

    .. math:: w \leftarrow w - \eta\, P^{-1} m

    From the state after the last step: Adam's and AdamW's (`adam_preconditioner`); 1 for SGD. A group with another lr
    has its P times :math:`\eta / \eta_\text{group}`, so that one :math:`\eta` stands for all, and infinity at lr 0:
    what does not move sees no curvature. Infinity too for a parameter that the optimizer does not hold, or that never
    had a gradient. Weight decay is not in it.

    Args:
        optimizer: SGD, Adam or AdamW.
        parameters: The model's parameters by name.

    Raises:
        ValueError: Another class; Adam before its first step.

    Example:
        >>> import torch
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> adam = torch.optim.Adam([w], lr=1e-3, eps=0.0)
        >>> (3 * w).sum().backward()
        >>> adam.step()
        >>> preconditioner(adam, {"w": w})  # (1 - 0.9) of the gradient's size
        {'w': tensor([0.3000])}
    """
    name = type(optimizer).__name__
    if name not in (*_ADAM, "SGD"):
        msg = f"`preconditioner` must be SGD, Adam or AdamW, or a dict of what divides the gradient; found {name}"
        raise ValueError(msg)
    reference = float(optimizer.param_groups[0]["lr"])
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found: dict[str, Tensor] = {}
    for key, p in parameters.items():
        divides = _divides(optimizer, groups[id(p)], p) if id(p) in groups else torch.full_like(p, torch.inf)
        lr = float(groups[id(p)]["lr"]) if id(p) in groups else reference
        found[key] = divides.detach() * (reference / lr if lr else torch.inf)
    if all(bool(divides.isinf().all()) for divides in found.values()):
        msg = "`preconditioner` has no state for any parameter of the model: take a step first"
        raise ValueError(f"{msg}, or give the optimizer of this model")
    return found


def _divides(optimizer: Optimizer, group: dict[str, Any], p: Tensor) -> Tensor:
    """P of one parameter in its own group's lr."""
    if type(optimizer).__name__ not in _ADAM:
        return torch.ones_like(p)
    state = optimizer.state.get(p, {})
    if "exp_avg_sq" not in state:
        return torch.full_like(p, torch.inf)
    v = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    beta1, beta2 = (float(beta) for beta in group["betas"])
    return adam_preconditioner(v, float(state["step"]), beta1=beta1, beta2=beta2, eps=float(group["eps"]))

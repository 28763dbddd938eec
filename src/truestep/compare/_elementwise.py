"""What SignSGD, Lion and AdaBelief share: each element of a weight finds its own direction, lr sets the length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, _foreach_add_, _foreach_mul, _foreach_sub_  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
from torch.optim import Optimizer

Lr = int | float | Tensor
Group = dict[str, Any]
State = dict[str, Any]
Stepped = list[tuple[Tensor, Tensor, State]]  # weight, gradient, state; complex numbers as pairs of real ones


class AbstractElementwise(Optimizer, ABC):
    r"""Steps :math:`w \leftarrow w - \eta\,(u + \lambda w)`, where each element of u depends on its own past alone.

    A subclass names the direction u twice: for one tensor, in plain operations, and for a list of tensors, in torch's
    foreach kernels. Tests hold the two equal.
    """

    def __init__(
        self, params: Iterable[Any], lr: Lr, weight_decay: int | float, foreach: bool | None, **settings: Any
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "foreach": foreach, **settings})
        for group in self.param_groups:  # here a group's own settings stand beside the defaults
            _check(group)

    @abstractmethod
    def _start(self, weight: Tensor, group: Group) -> State:
        """What is kept of a weight before its first step."""

    @abstractmethod
    def _direction(self, gradient: Tensor, state: State, group: Group) -> Tensor:
        """The direction u of one weight; moves its state on."""

    @abstractmethod
    def _directions(self, gradients: list[Tensor], states: list[State], group: Group) -> list[Tensor]:
        """The same for several weights at once, in new tensors."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; `closure`, where given, computes loss and gradients first, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        stepped = [self._stepped(group) for group in self.param_groups]  # all are checked before one is moved
        for group, weights in zip(self.param_groups, stepped, strict=True):
            (self._step_list if _runs_foreach(group) else self._step_each)(weights, group)
        return loss

    def _stepped(self, group: Group) -> Stepped:
        weights = [p for p in group["params"] if p.grad is not None]
        for p in weights:
            _check_dense(p.grad)
        for p in weights:
            if not self.state[p]:
                self.state[p].update(self._start(_real(p), group))
        return [(_real(p), _real(p.grad), self.state[p]) for p in weights]

    def _step_each(self, stepped: Stepped, group: Group) -> None:
        for weight, gradient, state in stepped:
            direction = self._direction(gradient, state, group)
            if group["weight_decay"]:
                direction = direction.add(weight, alpha=group["weight_decay"])
            weight.sub_(direction * _scalar(group["lr"]))

    def _step_list(self, stepped: Stepped, group: Group) -> None:
        if not stepped:
            return  # foreach kernels refuse an empty list
        weights, gradients, states = ([*column] for column in zip(*stepped, strict=True))
        directions = self._directions(gradients, states, group)
        if group["weight_decay"]:
            _foreach_add_(directions, weights, alpha=group["weight_decay"])
        # not in place: on the CPU _foreach_mul_ rounds its number to a bfloat16 list's format first (torch 2.13)
        _foreach_sub_(weights, _foreach_mul(directions, _scalar(group["lr"])))


def _runs_foreach(group: Group) -> bool:
    """As torch.optim chooses: what the user says, else where foreach kernels exist and tensors are no subclass."""
    if group["foreach"] is not None:
        return group["foreach"]
    return all(p.is_cuda and type(p) in (Tensor, torch.nn.Parameter) for p in group["params"])


def _real(x: Tensor) -> Tensor:
    """Complex numbers as their two real parts, each an element of its own, as in torch.optim."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _scalar(lr: Lr) -> int | float | Tensor:
    return lr.squeeze() if isinstance(lr, Tensor) else lr


def _check_dense(gradient: Tensor) -> None:
    if gradient.layout != torch.strided:
        msg = (
            f"`params` must have dense gradients, found one of layout {gradient.layout}; use nn.Embedding(sparse=False)"
        )
        raise ValueError(msg)


def _check(group: Mapping[str, Any]) -> None:
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        msg = f"`lr` must be a number or a tensor of one element, found shape {tuple(lr.shape)}"
        raise ValueError(msg)
    for name in ("lr", "weight_decay"):
        if not 0 <= float(group[name]) < torch.inf:
            msg = f"`{name}` must be 0 or more and finite, found {group[name]}"
            raise ValueError(msg)
    for name, beta in _betas(group):
        if not 0 <= beta < 1:
            msg = f"`{name}` must be at least 0 and below 1, found {beta}"
            raise ValueError(msg)


def _betas(group: Mapping[str, Any]) -> list[tuple[str, int | float]]:
    if "momentum" in group:
        return [("momentum", group["momentum"])]
    if len(group["betas"]) != 2:
        msg = f"`betas` must be two numbers, found {group['betas']}"
        raise ValueError(msg)
    return [(f"betas[{i}]", beta) for i, beta in enumerate(group["betas"])]

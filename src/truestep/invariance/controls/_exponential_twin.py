"""A run with weight decay turned into its twin without, at an lr that grows exponentially."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from truestep.core._around import Around, check_beside, keeps
from truestep.core._hooks import capturing, check_hooks
from truestep.core._sharding import local
from truestep.invariance.controls._frame import (
    Frame,
    Number,
    as_number,
    as_tensor,
    change_frame,
    like_setting,
    next_frame,
    renormalised,
    unless_skipped,
    unwound,
)
from truestep.invariance.controls._groups import whole_groups

_LOOK: Final = 64  # steps between two looks at what lies on the device

_TURNED: Final = (
    "`lr` x `weight_decay` must stay below 1 for a twin: the decay of one step would turn the weight round; lower one "
    "of them, and give finite numbers"
)


class ExponentialTwin:
    r"""Runs SGD on scale-invariant weights without weight decay, at the lr that gives exactly the run with it.

    .. math:: k_t = \mu_t b_t + \lambda_t, \quad a_t = 1 - \eta_t k_t, \quad P_{t+1} = a_t P_t, \quad
        b_{t+1} = k_t / a_t, \quad \tilde\eta_t = \frac{\eta_t}{P_t P_{t+1}}, \qquad P_0 = 1,\ b_0 = 0

    The network computes at each step what it would with decay; the weights are :math:`1/P_t` times as long. At a fixed
    lr the twin's grows as :math:`a^{-2t}`. Holds for any schedule of lr, decay and momentum, lr 0 too, and from any
    step of a run on. Groups of other weights (a trained head, affine parameters) go on with their own lr and decay.

    For the time of each step the groups of `params` hold the twin's lr and no decay; before and after it they hold the
    user's, as schedulers and loggers know them. `close` writes weights and momentum back as the run has them, which
    then goes on with decay.

    Args:
        optimizer: `torch.optim.SGD`, with momentum or without, a loop, foreach or fused; a subclass must do what SGD
            does where `weight_decay` is 0.
        params: The weights by name, all that their parameter groups hold; the loss must not see their norms.
        decoupled: Whether `weight_decay` is meant as decoupled, as AdamW's is (torch's SGD has no such setting): the
            twin of :math:`w \leftarrow (1-\eta\lambda)w - \eta v`, whose momentum is :math:`\mu(1-\eta\lambda)` of the
            step before. Other groups decay as the optimizer has it.
        limit: Weights longer than `limit` times the run's are shortened by a power of two, their momentum lengthened
            and lr with it: nothing is rounded, and no number overflows. `math.inf` lets them grow.

    Raises:
        ValueError: If the optimizer is no SGD, a group has Nesterov momentum (it has no twin of this kind) or
            dampening, or holds other weights than `params`, or another control sets their lr or norms already. Within
            a step: if momentum changes from or to 0, the step is captured in a CUDA graph, which would replay one lr,
            or lr x weight_decay is 1 or more. Where one of the two lies on the device this is told by the next look (or
            by `close`, `state_dict`, `log_growth`); until then the weights of that group stand still, at lr 0.

    Note:
        Exact up to the norm layers' eps: those matter less to longer weights. Gradients must be made anew for each
        step, and their clipping sees the twin's, :math:`P_t` times as long. A parameter without a gradient does not
        decay in the run either. With an lr on the device, or a fused step's scaler, nothing waits, but for a look
        every 64 steps; there each step goes once more over weights and momentum.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5, weight_decay=1.0)
        >>> twin = ExponentialTwin(optimizer, {"fc.weight": weight})
        >>> weight.grad = torch.tensor([0.0, -1.0])
        >>> optimizer.step()  # with decay: [0.5, 0.5]
        >>> weight.tolist(), optimizer.param_groups[0]["lr"], twin.log_growth
        ([1.0, 1.0], 0.5, [0.693...])
        >>> twin.close()
        >>> weight.tolist()
        [0.5, 0.5]

    References:
        Li & Arora, 2020, "An exponential learning rate schedule for deep learning". Note: Deviation: the recursion
        above instead of the root of :math:`x^2 - (1+\mu-\eta\lambda)x + \mu`, which is the same at a fixed lr only, and
        only if momentum starts as :math:`-(1-a)/(\eta a)\,w_0`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        params: Mapping[str, Tensor],
        *,
        decoupled: bool = False,
        limit: int | float = 256,
    ) -> None:
        check_hooks(optimizer)
        if not isinstance(optimizer, SGD):
            msg = f"`optimizer` must be torch.optim.SGD, found {type(optimizer).__name__}: no other rule has this twin"
            raise ValueError(msg)
        if not limit >= 2:
            msg = f"`limit` must be 2 or more, found {limit}"
            raise ValueError(msg)
        self._optimizer, self._decoupled, self._limit = optimizer, decoupled, limit
        self._frames = dict.fromkeys(whole_groups(optimizer, params), Frame())
        check_beside(optimizer, kept := keeps("ExponentialTwin", ["lr", "norms"], params.values()))
        self._powers: dict[int, Number] = dict.fromkeys(self._frames, 0)
        self._lost: dict[int, Tensor] = {}  # on the device: whether a group had to stop
        self._still = {index: self._group(index)["momentum"] == 0 for index in self._frames}
        for index in self._frames:
            self._check(index)
        self._planned: dict[int, Frame] = {}
        self._passed: dict[int, tuple[Frame, list[Tensor]]] = {}  # frame before, parameters without a gradient
        self._asked: list[tuple[dict[str, Any], Any, Any]] = []  # group, lr and decay that the user set
        self._steps = 0
        self._around = Around(optimizer, before=self._begin, first=self._end, last=self._settle, keeps=kept)

    @property
    def log_growth(self) -> list[float]:
        """Of each group of `params`: log of how much longer the weights would be without `limit`; reads the device.

        The lr is multiplied by exp of twice that.
        """
        self._look()
        return [float(self._powers[i]) * log(2.0) - log(float(frame.scale)) for i, frame in self._frames.items()]

    def state_dict(self) -> dict[str, Any]:
        """Where the twin stands, as plain numbers; save it with the model and the optimizer."""
        self._look()
        numbers = [(float(frame.scale), float(frame.radial)) for frame in self._frames.values()]
        return {"frames": numbers, "powers": [int(power) for power in self._powers.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, with the weights and the optimizer's state that were saved with it."""
        if len(state["frames"]) != len(self._frames):
            found, expected = len(state["frames"]), len(self._frames)
            msg = f"`state` must be of {expected} parameter groups, found {found}; build the optimizer as it was then"
            raise ValueError(msg)
        self._frames = dict(zip(self._frames, [Frame(*numbers) for numbers in state["frames"]], strict=True))
        self._powers = dict(zip(self._powers, state["powers"], strict=True))
        self._lost = {}

    def close(self) -> None:
        """Take the hooks off and write weights and momentum as the run with decay has them: it goes on from there."""
        self._around.close()
        self._put_back()
        for index in self._frames:
            self._move(index, Frame())
        self._powers = dict.fromkeys(self._powers, 0)
        self._look()

    def _group(self, index: int) -> dict[str, Any]:
        return self._optimizer.param_groups[index]

    def _begin(self) -> None:
        self._put_back()  # a step before may have ended in an exception
        if capturing(self._optimizer):
            msg = "`optimizer` must not be captured in a CUDA graph: the twin sets another lr at each step"
            raise ValueError(msg)
        plans = {index: self._plan(index) for index in self._frames}
        self._planned = {index: frame for index, (frame, _) in plans.items()}
        for index, (_, lr) in plans.items():
            group = self._group(index)
            self._asked.append((group, group["lr"], group["weight_decay"]))
            group["lr"], group["weight_decay"] = like_setting(lr, group["lr"]), 0.0

    def _plan(self, index: int) -> tuple[Frame, Number]:
        """The frame after the step and the twin's lr."""
        self._check(index)
        group = self._group(index)
        lr, decay = as_number(group["lr"]), as_number(group["weight_decay"])
        if not isinstance(lr, Tensor) and not isinstance(decay, Tensor) and not 1 - lr * decay > 0:
            raise ValueError(_TURNED)
        frame, twin_lr = next_frame(self._frames[index], lr, decay, group["momentum"], decoupled=self._decoupled)
        start = unwound(self._frames[index], frame)
        if start is not self._frames[index]:
            self._move(index, start)
            frame, twin_lr = next_frame(start, lr, decay, group["momentum"], decoupled=self._decoupled)
        return self._unless_lost(index, frame, twin_lr)

    def _unless_lost(self, index: int, frame: Frame, lr: Number) -> tuple[Frame, Number]:
        """Where there is no twin the group stops until the next look: the frame as it is, and lr 0."""
        if not isinstance(frame.scale, Tensor):
            if frame.scale <= 0:  # of weights that grew without a limit
                raise ValueError(_TURNED)
            return frame, lr
        lr = as_tensor(lr, frame.scale.device)
        lost = ~((frame.scale > 0) & lr.isfinite())
        lost = lost if index not in self._lost else lost | self._lost[index].to(lost.device)
        self._lost[index] = lost
        return unless_skipped(lost, self._frames[index], frame), torch.where(lost, 0.0, lr)

    def _end(self) -> None:
        """Behind the step, ahead of everybody else: the user's settings, and the frame unless it was skipped."""
        self._put_back()
        found_inf: Tensor | None = getattr(self._optimizer, "found_inf", None)
        for index, planned in self._planned.items():
            before = self._frames[index]
            self._frames[index] = unless_skipped(found_inf, before, planned)
            self._passed[index] = before, [p for p in self._group(index)["params"] if p.grad is None]
        self._planned = {}

    @torch.no_grad()
    def _settle(self) -> None:
        """Behind everybody else, who measured the step: what moves weights and momentum without changing the run."""
        self._steps += 1
        for index, (before, idle) in self._passed.items():
            after = self._frames[index]
            if after is before:
                continue
            if idle:
                change_frame(self._pairs(index, idle), before, after)
            if self._decoupled:
                left = {id(p) for p in idle}
                for _, buffer in self._pairs(index, [p for p in self._group(index)["params"] if id(p) not in left]):
                    if buffer is not None:
                        local(buffer).mul_(after.scale / before.scale)
            shorter, power = renormalised(after, self._limit)
            self._move(index, shorter)
            self._powers[index] = self._powers[index] + power
        self._passed = {}
        if self._steps % _LOOK == 0:
            self._look()

    def _look(self) -> None:
        """Waits for the device, where something lies there."""
        if any(bool(lost) for lost in self._lost.values()):
            raise ValueError(_TURNED)

    def _move(self, index: int, after: Frame) -> None:
        """The same run in another frame."""
        if after is self._frames[index]:
            return
        change_frame(self._pairs(index, self._group(index)["params"]), self._frames[index], after)
        self._frames[index] = after

    def _pairs(self, index: int, params: Iterable[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """Weights and their momentum, which starts as 0 where there is none yet."""
        states = [(p, self._optimizer.state[p]) for p in params]
        for p, state in states:
            if not self._still[index] and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(p)
        return [(p, state.get("momentum_buffer")) for p, state in states]

    def _put_back(self) -> None:
        for group, lr, weight_decay in self._asked:
            group["lr"], group["weight_decay"] = lr, weight_decay
        self._asked = []

    def _check(self, index: int) -> None:
        group = self._group(index)
        if group["nesterov"] or group["dampening"]:
            name = "nesterov" if group["nesterov"] else "dampening"
            msg = f"`optimizer` must not use {name} in group {index}: there is no such twin, found {group[name]}"
            raise ValueError(msg)
        if (group["momentum"] == 0) != self._still[index]:
            msg = f"`momentum` of group {index} must not change from or to 0 under a twin, found {group['momentum']}"
            raise ValueError(msg)

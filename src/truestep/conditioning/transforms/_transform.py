"""What all gradient transforms do: they take the place of the gradient for the time of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from truestep.conditioning.transforms._capture import Capture, Use
from truestep.conditioning.transforms._records import all_reduced, decayed, tensors_of, unless
from truestep.conditioning.transforms._stepped import Newcomers, Stepped, shaped_like, stepped_layers, wide
from truestep.core import AbstractSum, warn
from truestep.core._around import Around, check_beside, keeps
from truestep.core._hooks import check_hooks

Sums = TypeVar("Sums", bound=AbstractSum)


class Gradient(NamedTuple):
    """A layer's gradient, or what takes its place; one matrix a group, float32 or float64.

    Args:
        weight: As `weight.flatten(1)`, cut by groups.
        bias: None where the layer has none.
    """

    weight: Float[Tensor, "groups out features"]
    bias: Float[Tensor, "groups out"] | None


class AbstractTransform(ABC, Generic[Sums]):
    """Puts another direction in the place of the gradient of Linear and Conv2d layers, for the time of each step.

    Any torch optimizer then steps along it, with its own momentum, decay and so on. It hooks the layers and the
    optimizer, which stay the user's: see `Capture` for which passes count. Before a step the sums over uses are
    reduced over the ranks, mixed with those of the steps before (`ema`), and each layer's gradient is replaced by
    `_direction`, after each evaluation of a closure. Other hooks of the optimizer, whenever they were attached, find
    what the step reads; behind them all the user's own gradient stands in `.grad` again, the same tensor with the same
    values, and the sums are let go. Layers that are unfrozen or added later keep theirs, with one warning.

    A subclass says what one use adds (`_summed`, a record whose first field is a count), what a layer without a use
    adds (`_zeros`), and the direction. Sums of what is quadratic in the deltas override `_freed`.

    Args:
        model: Whatever wraps it.
        optimizer: Any `torch.optim.Optimizer` with step hooks, except LBFGS.
        biased: Whether layers without a bias are left alone.
        ema: How much of the sums of the step before is kept, between 0 (this step alone) and 1.
        scaler: The `torch.amp.GradScaler` of the loop, for `_loss_scale`.
        group: Ranks that share the batch; None is all of them.

    Raises:
        ValueError: If there is no layer, parameters are sharded, the optimizer is LBFGS or takes no hooks, a layer has
            a transform on it that is not closed, or `ema` is out of its range.
    """

    _hint = (
        "attach it before torch.compile and before the backward; weights that others read (MultiheadAttention) stay so"
    )

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        biased: bool,
        ema: int | float = 0.0,
        scaler: Any = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        check_hooks(optimizer)
        if isinstance(optimizer, LBFGS):
            msg = "`optimizer` must step along what stands in .grad, found LBFGS: it also searches along the loss"
            raise ValueError(msg)
        if not 0 <= ema < 1:
            msg = f"`ema` must be at least 0 and below 1, found {ema}"
            raise ValueError(msg)
        self._optimizer, self._ema, self._scaler, self._group = optimizer, ema, scaler, group
        self._layers = stepped_layers(model, optimizer, biased=biased)
        params = [p for layer in self._layers.values() for p in (layer.weight, layer.bias) if p is not None]
        check_beside(optimizer, kept := keeps(type(self).__name__, ["gradient"], params))
        self._newcomers: Newcomers | None = Newcomers(model, optimizer, self._layers, biased=biased)
        self._kept: dict[str, Sums] = {}
        self._planned: dict[str, Sums] = {}
        self._swapped: list[
            tuple[Tensor, Tensor, Tensor, int]
        ] = []  # parameter, the user's gradient, ours, its version
        self._room: dict[str, Tensor] = {}
        self._warned = False
        self._capture = Capture(self._layers, self._summed, self._samples)
        calls = {"before": self._put_back, "ready": self._apply, "again": self._step_aside, "last": self._end}
        self._around = Around(optimizer, **calls, keeps=kept)

    @abstractmethod
    def _summed(self, use: Use) -> Sums | None:
        """What one use adds; None for a use that does not count. Called in the backward."""

    def _samples(self, use: Use) -> int:
        """How many samples one use is of."""
        return use.samples

    @abstractmethod
    def _zeros(self, layer: Stepped) -> Sums:
        """What a layer without a use adds, in the formats in which its sums are kept."""

    @abstractmethod
    def _direction(self, sums: Sums, gradient: Gradient, room: Float[Tensor, "groups out features"]) -> Gradient:
        """What takes the gradient's place; `gradient` may be the user's own memory, to be read only.

        The weight's may be written in `room`, which is kept from step to step: fresh memory costs more than the sums.
        """

    def _freed(self, layer: Stepped, sums: Sums, samples: int) -> Sums:
        """Sums of this step on this rank freed of the loss's reduction and scale; `samples` went into the gradient.

        For a loss that is a mean, deltas are those of each sample's own loss over `samples` (micro-batches: with the
        loss divided by their number), times `_loss_scale`. Sums over inputs alone need nothing.
        """
        del layer, samples
        return sums

    def _loss_scale(self, like: Tensor) -> Tensor:
        """What a gradient scaler has multiplied the loss with; 1 without one."""
        one = torch.ones((), dtype=torch.float32, device=like.device)
        if self._scaler is not None:
            return self._scaler.scale(one)
        scale: Tensor | None = getattr(self._optimizer, "grad_scale", None)  # a fused optimizer is told
        return one if scale is None else scale.to(one)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose gradients are transformed."""
        return tuple(self._layers)

    def state_dict(self) -> dict[str, Any]:
        """The running sums by layer, of all ranks; none for `ema=0`."""
        return {"sums": {name: [x.clone() for x in tensors_of(sums)] for name, sums in self._kept.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: If it is of other layers.
        """
        kept: dict[str, Sums] = {}
        for name, tensors in state["sums"].items():
            zeros = None if name not in self._layers else self._zeros(self._layers[name])
            expected = None if zeros is None else [tuple(x.shape) for x in tensors_of(zeros)]
            found = [tuple(x.shape) for x in tensors]
            if zeros is None or found != expected:
                msg = f"`state` must hold sums of shapes {expected} for {name!r}, found {found}: it is of another model"
                raise ValueError(msg)
            kept[name] = type(zeros)(*(y.to(x, copy=True) for x, y in zip(tensors_of(zeros), tensors, strict=True)))
        self._kept = kept

    def close(self) -> None:
        """Take the hooks off; the gradients of later steps are the user's own."""
        self._around.close()
        self._capture.close()
        self._put_back()

    @torch.no_grad()
    def _apply(self) -> None:
        """The gradients stand, and the step is about to read them."""
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size(self._group) > 1
        self._planned = self._averaged(several)
        unseen: list[str] = []
        for name, layer in self._layers.items():
            grads = [p.grad for p in (layer.weight, layer.bias) if p is not None]
            if any(grad is None for grad in grads):
                continue
            if name in self._planned:
                self._replace(layer, self._planned[name], several)
            else:
                unseen.append(name)
        if unseen and not self._warned:
            self._warned = True
            warn(f"{type(self).__name__} saw no input of {', '.join(unseen)}: their gradients are left as they are; "
                 f"{self._hint}")  # fmt: skip
        if self._newcomers is not None and (new := self._newcomers.with_gradient()):
            self._newcomers = None
            warn(f"{type(self).__name__} was attached before {', '.join(new)} could be stepped: their gradients are "
                 "left as they are; close it and attach a new one")  # fmt: skip

    def _averaged(self, several: bool) -> dict[str, Sums]:
        """Sums over uses, ranks and steps; of those layers that were used, on several ranks of all."""
        sums: dict[str, Sums] = {}
        for name, layer in self._layers.items():
            window = self._capture.windows.get(name)
            if window is not None:
                sums[name] = self._freed(layer, window.sums, window.samples)  # type: ignore[arg-type]
            elif several:
                sums[name] = self._zeros(layer)
        if several:
            sums = all_reduced(sums, self._group)
        return {name: decayed(self._kept.get(name), new, self._ema) for name, new in sums.items()}

    def _replace(self, layer: Stepped, sums: Sums, several: bool) -> None:
        params = [p for p in (layer.weight, layer.bias) if p is not None]
        old = [layer.by_group(wide(p.grad)) for p in params if p.grad is not None]
        room = self._room.get(layer.name)
        if room is None or room.shape != old[0].shape or room.dtype != old[0].dtype or room.device != old[0].device:
            room = self._room[layer.name] = torch.empty_like(old[0], memory_format=torch.contiguous_format)
        new = self._direction(sums, Gradient(old[0], old[1] if len(old) > 1 else None), room)
        for p, value, before in zip(params, new, old, strict=False):
            if p.grad is not None and value is not None:
                # on several ranks it may be that none has used the layer: only the device knows
                kept = torch.where(tensors_of(sums)[0] > 0, value, before) if several else value
                ours = shaped_like(kept, p.grad)
                self._swapped.append((p, p.grad, ours, ours._version))
                p.grad = ours

    @torch.no_grad()
    def _end(self) -> None:
        """Behind the step and everybody else's hooks: a recorder reads the gradient that the step has read."""
        found_inf: Tensor | None = getattr(self._optimizer, "found_inf", None)
        self._unscale(found_inf)
        self._put_back()
        if self._ema:
            for name, new in self._planned.items():
                self._kept[name] = new if found_inf is None else unless(found_inf, self._kept.get(name), new)
        self._planned = {}
        self._capture.clear()

    def _unscale(self, found_inf: Tensor | None) -> None:
        """A fused step takes the scaler's scale out of the gradients that it reads: out of the user's too then."""
        scale: Tensor | None = getattr(self._optimizer, "grad_scale", None)
        if scale is None or not all(group.get("fused") for group in self._optimizer.param_groups):
            return
        for _, users, _, _ in self._swapped:
            factor = 1 / scale.to(users.device)
            if found_inf is not None:
                factor = torch.where(found_inf.to(factor.device) != 0, torch.ones_like(factor), factor)
            users.mul_(factor)

    def _put_back(self) -> None:
        """The user's own gradients, unless somebody has made new ones."""
        for p, users, ours, _ in self._swapped:
            if p.grad is ours:
                p.grad = users
        self._swapped = []

    def _step_aside(self) -> None:
        """A closure finds the user's gradients when it is evaluated again, or what the rule has made of ours."""
        for p, users, ours, version in self._swapped:
            if p.grad is ours:
                p.grad = users if ours._version == version else ours.clone()
        self._swapped = []

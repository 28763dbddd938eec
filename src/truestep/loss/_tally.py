"""A gradient that does not depend on how the batch was cut: sum over micro-batches and ranks, divide once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, Final, Literal, get_args

import torch
import torch.distributed as dist
from jaxtyping import Float, Float64
from torch import Tensor

from truestep.core import SumCount, scale_, squared_norm
from truestep.loss._reduction import Count, Losses, Mask, Per, Weight, from_mean, unreduced
from truestep.loss._reference import loss_unit, refer
from truestep.loss._scale import Scale, as_scalar, power_of_two, step_factor

Reduced = Literal["mean", "sum", "none"]
FIRST_TERMS: Final = 2.0**13  # taken for the first window on several ranks, which cannot agree on what they see


class Tally:
    r"""Sums losses over a window of micro-batches and ranks, and divides the gradient once, before the step.

    Each `total` gives the *sum* of its losses, times a fixed power of two that keeps half precision in range; their
    gradients add up in `.grad`. `finish` then multiplies them once by :math:`f(S, W, \|G\|)`, a function of sums over
    all micro-batches and ranks: the gradient is that of the union batch for any split, ragged tokens, ignored targets,
    weights, short last windows and uneven ranks. Two things are kept apart: `per` is the objective, `scale` the step.

    Losses come without class weights: pass these as `weight`. `finish` multiplies *all* that stands in `.grad`: a loss
    that went backward beside the tally is multiplied too, unless the window's denominator is known in advance
    (`begin`). `total` and `finish` copy nothing to the host; sums are float64, which MPS does not have. A window
    without any kept term, or one whose divisor is not positive and finite (`scale="unit"` of a negative loss), gives
    gradients that are exactly zero, or nan where they were nan: `guard` skips the step. Validation without gradients
    (`torch.no_grad`) is not counted.

    Args:
        per: What the mean is taken over. "item": the first dimension, each item averaged over its kept terms first.
            "token": kept terms. "weight": the sum of `weight`.
        scale: "mean". "ref": the mean divided by a frozen reference, the mean loss of the first 20 windows (during
            these, of the windows before; in the first, its own): the step no longer depends on the loss's unit, and
            nothing else changes. "unit": gradient of the logarithm of the loss (wants an lr that decays to zero).
            "sqrt": of twice its square root. "ngd": norm 1.
        reduced: How gradients were reduced over the ranks when `finish` sees them. "mean": DDP, FSDP. "sum": added.
            "none": each rank holds its own, to be added later.
        group: Ranks that share the batch; None is all of them.
        total: Denominator of every window over all ranks, where it is known in advance (see `begin`).

    Raises:
        ValueError: An unknown name.

    Example:
        >>> model, x = torch.nn.Linear(3, 1), torch.randn(7, 3)
        >>> tally = Tally(per="item")
        >>> for part in x.split([1, 4, 2]):
        ...     tally.backward(model(part).square())
        >>> window = tally.finish(model.parameters())
        >>> union = torch.autograd.grad(model(x).square().mean(), model.weight)[0]
        >>> torch.allclose(model.weight.grad, union), int(window.weight)
        (True, 7)
    """

    def __init__(
        self,
        per: Per = "item",
        scale: Scale = "mean",
        *,
        reduced: Reduced = "mean",
        group: dist.ProcessGroup | None = None,
        total: Count | None = None,
    ) -> None:
        for name, value, known in (("per", per, Per), ("scale", scale, Scale), ("reduced", reduced, Reduced)):
            if value not in get_args(known):
                msg = f"`{name}` must be one of {', '.join(get_args(known))}; found {value!r}"
                raise ValueError(msg)
        self.per: Per = per
        self.scale: Scale = scale
        self.reduced: Reduced = reduced
        self.group = group
        self._every_total = self._known = total
        self._sums: SumCount | None = None
        self._prescale: float | Tensor | None = None  # None until the first losses
        self._reference: SumCount | None = None  # of the first windows

    def begin(self, total: Count | None = None) -> None:
        """Open a window, and drop what an interrupted one has left; optional otherwise.

        Args:
            total: The window's denominator over all ranks (kept tokens, say), if it is known: for "mean", and for
                "ref" after its first windows, the gradients then come out right by themselves, and `finish` does not
                touch them. A wrong number is a wrong step: compare it with the `weight` that `finish` returns. Under
                "ref" a window after windows that all had no usable loss gives zero gradients.
        """
        self._sums = None
        self._known = self._every_total if total is None else total

    def total(
        self,
        losses: Losses,
        mask: Mask | None = None,
        weight: Weight | None = None,
        count: Count | None = None,
    ) -> Float[Tensor, ""]:
        """A scalar for anyone's backward: not the loss to log, which `finish` returns.

        Args:
            losses: Unreduced, items first; or a scalar mean with its `count`.
            mask: 1 or True where a loss counts, 0 where its target is ignored; trailing dimensions may lack.
            weight: Multiplies the losses (class or sample weights), and ignores those where it is 0; trailing
                dimensions may lack.
            count: Denominator of a scalar mean: its items, kept tokens, or sum of weights.
        """
        sums = self._summed(losses, mask, weight, count)
        factor = self._known_factor(losses)
        counted = torch.is_grad_enabled()
        if counted:
            seen = replace(sums, loss=sums.loss.detach())
            self._sums = seen if self._sums is None else self._sums + seen
        if factor is None:
            factor = self._first_prescale(losses, count) if self._prescale is None else self._prescale
            self._prescale = factor if counted else self._prescale
        return (sums.loss * factor).to(torch.promote_types(losses.dtype, torch.float32))

    def backward(
        self,
        losses: Losses,
        mask: Mask | None = None,
        weight: Weight | None = None,
        count: Count | None = None,
        *,
        scaler: Any = None,
    ) -> None:
        """`total`, then its backward; through `scaler.scale` if a GradScaler is given."""
        total = self.total(losses, mask, weight, count)
        (total if scaler is None else scaler.scale(total)).backward()

    @torch.no_grad()
    def finish(self, parameters: Iterable[Tensor] | Tensor) -> SumCount:
        """Make the accumulated gradients those of the whole window: after `scaler.unscale_`, before clipping.

        One all_reduce of three sums; the gradients are read and written once ("ngd" reads them twice), and not at all
        where the window's denominator was given in advance.

        Args:
            parameters: Those whose `.grad` is to be scaled, all that the losses reach: `model.parameters()`.

        Returns:
            The window's sums over all ranks, on the device; its `mean` is the loss to log.

        Raises:
            RuntimeError: No losses were given since the last call, or no parameter has a gradient.
            TypeError: `parameters` does not hold tensors.
            ValueError: `scale="ngd"` with gradients that no rank has in full.
        """
        if self.scale == "ngd" and self.reduced == "none" and self._world() > 1:
            msg = (
                "`scale='ngd'` needs the norm of the whole gradient: reduce it over the ranks, and say how in `reduced`"
            )
            raise ValueError(msg)
        grads = _gradients(parameters)
        window = self._window(grads).all_reduce(self.group)
        if self._known_factor(window.loss) is None:
            prescale = as_scalar(1.0 if self._prescale is None else self._prescale, window.loss)
            if grads:
                scale_(grads, self._multiplier(window, grads, prescale))
            ahead = power_of_two(window.weight / self._ranks())
            self._prescale = torch.where((window.weight > 0) & torch.isfinite(window.weight), ahead, prescale)
        if self.scale == "ref":
            self._reference = refer(self._reference, window)
        self.begin()
        return window

    def state_dict(self) -> dict[str, Any]:
        """The reference and the pre-scale, to be saved beside the model's between two windows."""
        state: dict[str, Any] = {"per": self.per, "scale": self.scale, "prescale": self._prescale, "reference": None}
        if self._reference is not None:
            state["reference"] = asdict(self._reference)  # copies
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; every rank loads the same.

        Raises:
            ValueError: It is of a tally with another objective or another step.
        """
        for name in ("per", "scale"):
            if state[name] != getattr(self, name):
                msg = f"`state` is of a Tally with {name}={state[name]!r}, this one has {name}={getattr(self, name)!r}"
                raise ValueError(msg)
        self._prescale = state["prescale"]
        self._reference = None if state["reference"] is None else SumCount(**state["reference"])
        self.begin()

    def _summed(self, losses: Losses, mask: Mask | None, weight: Weight | None, count: Count | None) -> SumCount:
        if losses.dim() and count is None:
            if self.per == "weight" and weight is None:
                msg = "`weight` is what per='weight' divides by: give it, or take per='token'"
                raise ValueError(msg)
            return unreduced(losses, mask, weight, self.per)
        if losses.dim() or count is None or mask is not None or weight is not None:
            msg = (
                "give `losses` unreduced (reduction='none'), with `mask` and `weight`, or a scalar mean with `count`;"
                f" found {losses.dim()} dimensions, count={count}"
            )
            raise ValueError(msg)
        return from_mean(losses, count)

    def _first_prescale(self, losses: Tensor, count: Count | None) -> float | Tensor:
        """A power of two near 1 / terms; on several ranks a fixed one, since they must not differ."""
        if self._world() > 1:
            return 1 / FIRST_TERMS
        terms = losses.new_full((), losses.numel(), dtype=torch.float64)
        if isinstance(count, Tensor):
            terms = count.detach().to(terms)
        elif count is not None:
            terms = torch.full_like(terms, count)
        return power_of_two(terms.clamp_min(1.0))

    def _known_factor(self, like: Tensor) -> Float64[Tensor, ""] | None:
        """What makes the gradient right from the start; None where that needs the whole window."""
        if self._known is None or not (self.scale == "mean" or self._reference is not None):
            return None
        weight = as_scalar(self._known, like)
        reference = None if self._reference is None else self._reference.mean.abs()
        return step_factor(self.scale, weight, weight, reference) * self._ranks()

    def _multiplier(self, window: SumCount, grads: list[Tensor], prescale: Float64[Tensor, ""]) -> Float64[Tensor, ""]:
        """What turns the accumulated gradients into those of the window."""
        if self.scale == "ngd":
            return step_factor("ngd", window.loss, window.weight, squared_norm(grads).sqrt())
        unit = loss_unit(self._reference, window) if self.scale == "ref" else None
        return step_factor(self.scale, window.loss, window.weight, unit) * self._ranks() / prescale

    def _window(self, grads: list[Tensor]) -> SumCount:
        """Sums of this rank; zeros where it had no micro-batch but others may."""
        if self._world() == 1 and (self._sums is None or not grads):
            lacks = "no gradients: its `parameters` have none, or were used up" if self._sums else "no losses"
            msg = f"`finish` found {lacks}; call it with model.parameters(), after a `backward` for each micro-batch"
            raise RuntimeError(msg)
        if self._sums is None:
            zero = torch.zeros((), dtype=torch.float64, device=grads[0].device if grads else None)
            return SumCount(zero, zero, zero)
        return self._sums

    def _world(self) -> int:
        return dist.get_world_size(self.group) if dist.is_available() and dist.is_initialized() else 1

    def _ranks(self) -> int:
        """By what reducing the gradients has divided them."""
        return self._world() if self.reduced == "mean" else 1


def _gradients(parameters: Iterable[Tensor] | Tensor) -> list[Tensor]:
    """Whatever gradients there are."""
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for p in tensors:
        if not isinstance(p, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"`parameters` must hold tensors, as model.parameters() does; found a {type(p).__name__}"
            raise TypeError(msg)
    return [p.grad for p in tensors if p.grad is not None]

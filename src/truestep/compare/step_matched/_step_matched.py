"""Any optimizer's direction at a length that is the same for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from truestep.compare.step_matched._blocks import Scope, list_blocks
from truestep.compare.step_matched._check import Decay, check_arguments
from truestep.compare.step_matched._decay import DecayOutside
from truestep.compare.step_matched._extent import Extent, extent, joined, real
from truestep.compare.step_matched._factor import Norm, matching_factor, step_length
from truestep.compare.step_matched._outputs import Outputs, Pairs
from truestep.compare.step_matched._report import MatchReport
from truestep.compare.step_matched._schedule import Length
from truestep.compare.step_matched._tally import Tally
from truestep.compare.step_matched._wanted import Wanted
from truestep.compare.step_matched._write import write_
from truestep.core._around import Around, check_beside, keeps
from truestep.core._hooks import capturing, check_hooks
from truestep.core._kept import Buffers

_FLOOR = 0.1  # of the root mean square of all weights
_ROUND = (torch.float16, torch.bfloat16)  # formats in which a step may be lost
_OFF = 0.01  # share of the wanted length that rounding may add or take


class StepMatched:
    r"""Gives each step of `optimizer` a wanted length in a declared norm; the direction stays the optimizer's.

    .. math:: w \leftarrow w + r_t\, \frac{u_t}{N(u_t)}, \qquad u_t = \text{weights after the optimizer's own step} - w

    Two optimizers at the same lengths differ by their directions alone, in that norm: another norm may turn their
    order round, so compare in two at least. lr then matters only where it enters the direction. The displacement is
    measured on the weights, so every rule and any reduction of the loss will do; the optimizer's state is left alone.

    Args:
        optimizer: Any `torch.optim.Optimizer` with step hooks but LBFGS.
        length: :math:`r_t \ge 0`, one of:

            - a number; a list with one for each step; or a callable that is given the number of steps so far and
              returns one. Each may be a tensor with one value for each block. Where a fused step's `found_inf` lies on
              the device, the callable is given a float64 tensor, so that nothing waits.
            - another optimizer, built on the same weights (grafting): the length of the step that it would take from
              the same weights with the same gradients, weight decay as `decay` says. Its state is its own and lives
              in `state_dict`; schedule its lr as you like, and never call its `step`.
            - `replay(steps)`: the lengths of the recorded steps of another run.
        norm: "l2"; "rms", l2 over the root of the number of entries; "linf"; "relative", l2 over the weights' own;
            "angular", the angle that the weights turn, in radians, for weights whose norm the loss does not see; or
            "function", the root mean square of what the outputs of `probe` change by.
        scope: What has this length: all weights as one ("global"), those of a parameter "group", each "tensor", or
            each "unit", a slice along the first dimension (a tensor of fewer than two dimensions is one unit).
            "function" is global.
        probe: For "function": gives the network's outputs for a fixed batch, a tensor or a pytree of them, in
            evaluation mode and with the mode put back, as `functools.partial(problem.outputs, model)` does. At most 8
            calls a step, without gradients; each finds the run's random numbers as they are and leaves them so.
        decay: "in": weight decay is part of the step that is matched. "out": the step is the optimizer's without
            decay, and lr x weight_decay of the weight before is taken off besides, whether the rule has its decay
            coupled or decoupled.

    Raises:
        ValueError: If `optimizer` is LBFGS, takes no hooks, holds DTensors, or another control has the say in its
            weights' lr, norms or steps (another `StepMatched`, too); if the other optimizer holds other weights; if an
            argument is none of the above. Within a step: if the schedule has no length for it, or not one for each
            block; if `probe` runs batch norm in training mode; if the step is captured in a CUDA graph, which would
            replay one length.

    Note:
        A block that did not move, whose angle cannot be reached, or whose step is not finite keeps the step it took;
        `report` says which, and how far it went. A length in the outputs is searched for, to 1e-5, or to what their
        digits allow and 1 % at most; where 8 forwards are not enough (steps that change the outputs by much) the
        nearest length found is taken and reported. "relative" takes each weight to have at least a tenth of the root
        mean square that all weights have when the control is attached (a tenth, where all are zero): a zero-initialised
        block has no length of its own. A step that a gradient scaler or `guard` skips changes no bit and takes no
        length off the schedule. Units of a transposed convolution lie along its second dimension: not supported.

        Weights round. Of 16 bits the length is measured behind the rounding, and reported where it is more than 1 %
        off. The direction is read off the weights too: of a step near their spacing (6e-8 of a float32 weight, 4e-3 of
        a bfloat16 one) it has few digits, so give the optimizer an lr whose steps are well above.

        What waits for the device at each step: "function", and another optimizer as `length` where a scaler's
        `found_inf` lies there. Ranks must be given one `probe` batch. The weights that are measured are those in the
        parameters: of a schedule-free rule its y, where gradients are taken; its z stays its own.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> matched = StepMatched(optimizer, 0.5)
        >>> weight.grad = torch.tensor([3.0, -4.0])
        >>> optimizer.step()
        >>> weight.data
        tensor([0.7000, 2.4000])

    References:
        Agarwal et al., 2020, "Disentangling adaptive gradient methods from learning rates" (grafting). Note: Deviation:
        any norm and scope, and lengths that are given.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        length: Length,
        *,
        norm: Norm | Literal["function"] = "l2",
        scope: Scope = "global",
        probe: Callable[[], Any] | None = None,
        decay: Decay = "in",
    ) -> None:
        check_hooks(optimizer)
        check_arguments(optimizer, length, norm, scope, probe, decay)
        self._optimizer = optimizer
        self._outputs = None if probe is None else Outputs(probe)
        self._norm: Norm | Literal["function"] = norm
        self._scope: Scope = scope
        self._blocks = list_blocks(optimizer, scope)
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        check_beside(optimizer, kept := keeps("StepMatched", ["step"], weights))
        self._floor = _floor(self._blocks.params)
        self._wanted = Wanted(length, optimizer, self._blocks, norm, self._floor, decay_out=decay == "out")
        self._tally = Tally(self._blocks)
        self._buffers, self._before = Buffers(), list[Tensor | None]()
        self._decay = DecayOutside(optimizer) if decay == "out" else None
        self._around = Around(optimizer, before=self._begin, ready=self._ready, first=self._match, keeps=kept)

    @property
    def report(self) -> MatchReport:
        """The latest step by block, and the number of steps that were not matched; reading it may wait."""
        names = self._blocks.names(self._optimizer.param_groups)
        wanted, took, kept, times = (x.cpu() for x in self._tally.latest)
        return MatchReport(int(self._tally.steps), self._norm, names, wanted, took, kept, times)

    def state_dict(self) -> dict[str, Any]:
        """Steps so far (a tensor where the device counts), the floor of "relative", what the report holds.

        Also the state of an optimizer that is the `length`.
        """
        return {**self._tally.state_dict(), "floor": self._floor, **self._wanted.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`: schedule, floor, and an optimizer that is the `length`, as they were."""
        self._tally.load_state_dict(state)
        self._wanted.load_state_dict(state)
        self._floor = state["floor"]

    def close(self) -> None:
        """Take the hooks off; the weights stay where they are, and steps are the optimizer's own again."""
        self._around.close()
        if self._decay is not None:
            self._decay.put_back()

    @torch.no_grad()
    def _begin(self) -> None:
        """Before the step: the length it is to have, and the weights as they are."""
        if capturing(self._optimizer):
            msg = "`StepMatched` must not be captured in a CUDA graph, which would replay one length; close it before"
            raise ValueError(msg)
        self._blocks = list_blocks(self._optimizer, self._scope)
        self._wanted.begin(self._blocks, self._floor, self._tally.steps)
        names = [str(number) for number in range(len(self._blocks.params))]
        self._before = self._buffers.fill(names, [p.detach() for p in self._blocks.params])
        if self._decay is not None:
            self._decay.put_back()  # a step before may have ended in an exception

    @torch.no_grad()
    def _ready(self) -> None:
        """The gradients stand; not earlier, for a closure may end in an exception, and no step put the decay back."""
        if self._wanted.reference is not None:
            self._wanted.reference.ready()
        if self._decay is not None:
            self._decay.take()

    @torch.no_grad()
    def _match(self) -> None:
        """Behind the step: its direction at that length."""
        found_inf: Tensor | None = getattr(self._optimizer, "found_inf", None)
        known = self._is_known(found_inf) or self._waits
        try:
            if found_inf is None or not (known and bool(found_inf)):
                self._move(None if known else found_inf)
        finally:
            if self._decay is not None:
                self._decay.put_back()

    @property
    def _waits(self) -> bool:
        """Whether the host reads the device at each step anyway."""
        return self._wanted.reference is not None or self._outputs is not None

    @staticmethod
    def _is_known(found_inf: Tensor | None) -> bool:
        """Whether the host can tell without waiting if the step was skipped."""
        return found_inf is None or found_inf.device.type == "cpu"

    def _move(self, skipped: Tensor | None) -> None:
        """Write the weights, but where the device finds that the step was skipped."""
        blocks = self._blocks
        pairs = [(w, p) for w, p in zip(self._before, blocks.params, strict=True) if w is not None]
        wanted, factor, took, kept = self._matched(pairs)
        shares = [self._share(p, group) for p, group in zip(blocks.params, blocks.groups, strict=True)]
        for (w, p), c, share in zip(pairs, blocks.of_weights(factor), shares, strict=True):
            write_(p, w, c, share, skipped)
        if self._outputs is None and any(p.dtype in _ROUND for _, p in pairs):
            took, kept = self._rounded(pairs, shares, wanted, kept)
        self._tally.note(blocks, wanted, took, kept, skipped)

    def _share(self, p: Tensor, group: int) -> int | float | Tensor:
        """What decay takes of a weight besides; torch passes over weights without a gradient."""
        return 0.0 if self._decay is None or p.grad is None else self._decay.share(group)

    def _rounded(self, pairs: Pairs, shares: Sequence[Any], wanted: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Lengths as the weights' few digits hold them, and which are no longer the wanted ones."""
        wide = [w.to(torch.promote_types(w.dtype, torch.float64)) for w, _ in pairs]
        decayed = [((1 - share) * w, p) for w, (_, p), share in zip(wide, pairs, shares, strict=True)]
        took = step_length(self._extent(decayed), cast("Norm", self._norm), self._floor)
        return took, kept | ~((took - wanted).abs() <= _OFF * wanted)

    def _matched(self, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """By block: length wanted, factor of the step (nan: left as it is), length taken, whether it is another."""
        moved = self._extent(pairs)
        outputs, norm, floor = self._outputs, cast("Norm", self._norm), self._floor
        if outputs is None:
            wanted = self._wanted.of(self._before, moved.uu, lambda: step_length(self._extent(pairs), norm, floor))
            factor = matching_factor(moved, norm, wanted, floor)
            kept = factor.isnan()
            return wanted, factor, torch.where(kept, step_length(moved, norm, floor), wanted), kept
        with outputs.probed(pairs):
            wanted = self._wanted.of(self._before, moved.uu, lambda: torch.full_like(moved.uu, outputs.distance()))
            factor, took, matched = outputs.match(float(wanted), float(moved.uu.sqrt()), float(moved.ww.sqrt()))
        like = torch.full_like
        return wanted, like(wanted, factor), like(wanted, took), like(wanted, not matched, dtype=torch.bool)

    def _extent(self, pairs: Pairs) -> Extent:
        return joined([extent(w, p, units=self._scope == "unit") for w, p in pairs], self._blocks.sizes)


@torch.no_grad()
def _floor(params: tuple[Tensor, ...]) -> float:
    """A tenth of the root mean square of all weights, or a tenth where all are zero; waits for the device, once."""
    squares = sum(float(torch.linalg.vector_norm(real(p), dtype=torch.float64)) ** 2 for p in params)
    mean = squares / sum(real(p).numel() for p in params)
    return _FLOOR * (mean**0.5 or 1.0)

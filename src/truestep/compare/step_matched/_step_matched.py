"""Any optimizer's direction at a length that is the same for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from truestep.compare.step_matched._blocks import SCOPES, Blocks, Scope, list_blocks
from truestep.compare.step_matched._decay import DecayOutside
from truestep.compare.step_matched._extent import extent, joined, real
from truestep.compare.step_matched._factor import NORMS, Norm, matching_factor, step_length
from truestep.compare.step_matched._report import MatchReport
from truestep.compare.step_matched._schedule import Count, Length, check_length, length_at
from truestep.compare.step_matched._write import write_
from truestep.core._around import Around, check_beside, keeps
from truestep.core._hooks import capturing, check_hooks
from truestep.core._kept import Buffers

Decay = Literal["in", "out"]

_FLOOR = 0.1  # of the root mean square of all weights


class StepMatched:
    r"""Gives each step of `optimizer` a wanted length in a declared norm; the direction stays the optimizer's.

    .. math:: w \leftarrow w + r_t\, \frac{u_t}{N(u_t)}, \qquad u_t = \text{weights after the optimizer's own step} - w

    Two optimizers at the same lengths differ by their directions alone, in that norm: another norm may turn their
    order round, so compare in two at least. lr then matters only where it enters the direction. The displacement is
    measured on the weights, so every rule and any reduction of the loss will do; the optimizer's state is left alone.

    Args:
        optimizer: Any `torch.optim.Optimizer` with step hooks but LBFGS.
        length: :math:`r_t \ge 0`, a number; a list with one for each step; or a callable that is given the number of
            steps so far and returns one. Each may be a tensor with one value for each block. Where a fused step's
            `found_inf` lies on the device, the callable is given a float64 tensor, so that nothing waits.
        norm: "l2"; "rms", l2 over the root of the number of entries; "linf"; "relative", l2 over the weights' own; or
            "angular", the angle that the weights turn, in radians, for weights whose norm the loss does not see.
        scope: What has this length: all weights as one ("global"), those of a parameter "group", each "tensor", or
            each "unit", a slice along the first dimension (a tensor of fewer than two dimensions is one unit).
        probe: For a norm of the network's outputs; none of the norms above takes it.
        decay: "in": weight decay is part of the step that is matched. "out": the step is the optimizer's without
            decay, and lr x weight_decay of the weight before is taken off besides, whether the rule has its decay
            coupled or decoupled.

    Raises:
        ValueError: If `optimizer` is LBFGS, takes no hooks, holds DTensors, or another control has the say in its
            weights' lr or norms (another `StepMatched`, too); if an argument is none of the above. Within a step: if
            the schedule has no length for it, or the step is captured in a CUDA graph, which would replay one length.

    Note:
        A block that did not move, whose angle cannot be reached, or whose step is not finite keeps the step it took;
        `report` says which, and how far it went. "relative" takes each weight to have at least a tenth of the root
        mean square that all weights have when the control is attached (a tenth, where all are zero): a
        zero-initialised block has no length of its own. A step that a gradient scaler or `guard` skips changes no
        bit and takes no length off the schedule. Weights of few digits round: a length of less than their spacing is
        not met. Units of a transposed convolution lie along its second dimension: not supported.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> matched = StepMatched(optimizer, 0.5)
        >>> weight.grad = torch.tensor([3.0, -4.0])
        >>> optimizer.step()
        >>> weight.data
        tensor([0.7000, 2.4000])

    References:
        Agarwal et al., 2020, "Disentangling adaptive gradient methods from learning rates". Note: Deviation: the length
        is given, not taken from a second optimizer.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        length: Length,
        *,
        norm: Norm = "l2",
        scope: Scope = "global",
        probe: Callable[[], Any] | None = None,
        decay: Decay = "in",
    ) -> None:
        check_hooks(optimizer)
        _check(optimizer, length, norm, scope, probe, decay)
        self._optimizer, self._length = optimizer, length
        self._norm: Norm = norm
        self._scope: Scope = scope
        self._blocks = list_blocks(optimizer, scope)
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        check_beside(optimizer, kept := keeps("StepMatched", ["lr", "norms"], weights))
        self._floor = _floor(self._blocks)
        self._steps: Count = 0
        self._latest = _nothing(self._blocks)
        self._buffers, self._before = Buffers(), list[Tensor | None]()
        self._wanted: float | Tensor = torch.nan
        self._decay = DecayOutside(optimizer) if decay == "out" else None
        self._around = Around(optimizer, before=self._begin, first=self._match, keeps=kept)

    @property
    def report(self) -> MatchReport:
        """The latest step by block, and the number of steps that blocks kept; reading it may wait for the device."""
        names = self._blocks.names(self._optimizer.param_groups)
        wanted, took, kept, times = (x.cpu() for x in self._latest)
        return MatchReport(int(self._steps), self._norm, names, wanted, took, kept, times)

    def state_dict(self) -> dict[str, Any]:
        """Steps so far (a tensor where the device counts), the floor of "relative", and what the report holds."""
        steps = self._steps.clone() if isinstance(self._steps, Tensor) else self._steps
        return {"steps": steps, "floor": self._floor, "latest": [x.clone() for x in self._latest]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`: the schedule where it was, and the same floor."""
        latest, expected = state["latest"], self._latest[0].shape
        if any(x.shape != expected for x in latest):
            found = tuple(latest[0].shape)
            msg = (
                f"`state` must be of {expected[0]} blocks, found {found}; give the `scope` and groups it was saved with"
            )
            raise ValueError(msg)
        steps: Count = state["steps"]
        self._steps = steps.to(self._latest[0].device) if isinstance(steps, Tensor) else steps
        self._floor = state["floor"]
        self._latest = tuple(x.to(old) for x, old in zip(latest, self._latest, strict=True))

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
        self._wanted = length_at(self._length, self._steps, self._norm)
        names = [str(number) for number in range(len(self._blocks.params))]
        self._before = self._buffers.fill(names, [p.detach() for p in self._blocks.params])
        if self._decay is not None:
            self._decay.take()

    @torch.no_grad()
    def _match(self) -> None:
        """Behind the step: its direction at that length."""
        found_inf: Tensor | None = getattr(self._optimizer, "found_inf", None)
        known = self._is_known(found_inf)
        if found_inf is None or not (known and bool(found_inf)):
            self._move(None if known else found_inf)
        if self._decay is not None:
            self._decay.put_back()

    @staticmethod
    def _is_known(found_inf: Tensor | None) -> bool:
        """Whether the host can tell without waiting if the step was skipped."""
        return found_inf is None or found_inf.device.type == "cpu"

    def _move(self, skipped: Tensor | None) -> None:
        """Write the weights, but where the device finds that the step was skipped."""
        blocks = self._blocks
        pairs = [(w, p) for w, p in zip(self._before, blocks.params, strict=True) if w is not None]
        moved = joined([extent(w, p, units=self._scope == "unit") for w, p in pairs], blocks.sizes)
        wanted: Any = self._wanted  # a number is filled in: copied to the device, it would wait
        if isinstance(wanted, Tensor):
            wanted = wanted.to(moved.uu.device, non_blocking=True).expand_as(moved.uu)
        else:
            wanted = torch.full_like(moved.uu, wanted)
        factor = matching_factor(moved, self._norm, wanted, self._floor)
        took = torch.where(factor.isnan(), step_length(moved, self._norm, self._floor), wanted)
        self._note(wanted, took, factor.isnan(), skipped)
        rows = blocks.of_weights(factor)
        for (w, p), c, group in zip(pairs, rows, blocks.groups, strict=True):
            decays = self._decay is not None and p.grad is not None  # torch passes over weights without a gradient
            share = self._decay.share(group) if self._decay is not None and decays else 0.0
            write_(p, w, c, share, skipped)

    def _note(self, wanted: Tensor, took: Tensor, kept: Tensor, skipped: Tensor | None) -> None:
        """Count the step, unless it was skipped."""
        old = self._latest
        if old[0].shape != kept.shape:  # groups were added: other blocks from here on
            old = _nothing(self._blocks)
        old = tuple(x.to(kept.device) for x in old)
        new = wanted, took, kept, old[3] + kept
        if skipped is None:
            self._latest, self._steps = new, self._steps + 1
            return
        stays = skipped.reshape(()) != 0
        self._latest = tuple(torch.where(stays.to(kept.device), x, y) for x, y in zip(old, new, strict=True))
        steps = self._steps
        steps = steps if isinstance(steps, Tensor) else torch.full((), steps, dtype=torch.long, device=stays.device)
        self._steps = torch.where(stays, steps, steps + 1)


def _nothing(blocks: Blocks) -> tuple[Tensor, ...]:
    """Wanted and taken lengths, who kept its step and how often, before the first step."""
    count = len(blocks.sizes)
    on = blocks.params[0].device
    none = torch.full((count,), torch.nan, dtype=torch.float64, device=on)
    return none, none.clone(), torch.zeros(count, dtype=torch.bool, device=on), none.new_zeros(count, dtype=torch.long)


@torch.no_grad()
def _floor(blocks: Blocks) -> float:
    """A tenth of the root mean square of all weights, or a tenth where all are zero; waits for the device, once."""
    squares = sum(float(torch.linalg.vector_norm(real(p), dtype=torch.float64)) ** 2 for p in blocks.params)
    mean = squares / sum(real(p).numel() for p in blocks.params)
    return _FLOOR * (mean**0.5 or 1.0)


def _check(optimizer: Optimizer, length: object, norm: object, scope: object, probe: object, decay: object) -> None:
    if isinstance(optimizer, LBFGS):
        msg = (
            "`optimizer` must not be LBFGS: its curvature pairs are made of its own steps, and would be wrong of steps "
            "of another length; match the optimizer that it is compared with to its lengths instead"
        )
        raise ValueError(msg)
    for name, found, accepted in (
        ("norm", norm, NORMS),
        ("scope", scope, SCOPES),
        ("decay", decay, get_args(Decay)),
    ):
        if found not in accepted:
            msg = f"`{name}` must be one of {', '.join(map(repr, accepted))}, found {found!r}"
            raise ValueError(msg)
    if probe is not None:
        msg = f"`probe` must be None for norm={norm!r}, which looks at the weights alone; leave it out"
        raise ValueError(msg)
    if isinstance(length, int | float):
        check_length(length, str(norm))
    elif not (callable(length) or isinstance(length, Tensor | list | tuple)):
        msg = f"`length` must be a number, a list of them or a callable, found {type(length).__name__}"
        raise ValueError(msg)

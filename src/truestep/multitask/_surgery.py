"""Gradient surgery at the shared features, by any map from the tasks' Gramian to weights."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from truestep.multitask._rule import AbstractRule, PerTask, Readings

Gramian = Float64[Tensor, "tasks tasks"]
Unit = Literal["common", "norm", "none"]
Absent = Literal["drop", "zero"]


def in_binary_unit(gram: Gramian) -> Gramian:
    r"""The Gramian over the power of four that brings its trace to [1, 4): exact, and the same for any such unit.

    Weightings mean to be free of scale, but have constants: 1e-4 in TorchJD's UPGrad, where the gradients of a mean
    over a batch, at its features, are often smaller.

    Example:
        >>> in_binary_unit(torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double() * 2.0**-40)
        tensor([[0.7500, 0.0000],
                [0.0000, 0.2500]], dtype=torch.float64)
    """
    _, exponent = torch.frexp(gram.diagonal().sum())
    half = (exponent + 1).div(2, rounding_mode="floor") - 1  # trace in [2**(exponent - 1), 2**exponent)
    unit = torch.ldexp(torch.ones_like(gram[0, 0]), -half.double())
    return gram * unit * unit


class Surgery(AbstractRule):
    r"""Weights from the inner products of the tasks' gradients: UPGrad, MGDA, PCGrad, IMTL-G, Aligned-MTL, ...

    .. math:: w = f(K), \qquad K_{ij} = \langle g_i, g_j \rangle, \qquad \text{step } \propto \sum_i w_i g_i

    f is any callable from a float64 Gramian of shape [T, T] to T weights: a `Weighting` of TorchJD (see
    `truestep.integrations.torchjd.surgery`), or a function of your own. Any reduction: with `unit="common"` a factor
    on all losses changes no weight. A factor on one loss does, with most of these methods: `unit="norm"` is for
    surgery on gradients of norm one, which no loss's unit changes.

    **Surgery at the features is not surgery at the parameters.** The Balancer measures K at the shared z (or at one
    weight). Whatever f promises, :math:`\langle \sum_j w_j g_j, g_i \rangle \ge 0` say, holds there and only there: the
    trunk's Jacobian need not keep angles. It is what MGDA-UB does (Sener and Koltun, 2018), for one backward instead
    of T. For surgery at the parameters use TorchJD's `mtl_backward` and `jac_to_grad`.

    What methods promise, on their K: UPGrad and MGDA no conflict with any task; PCGrad that for two tasks only; IMTL-G
    equal projections on all gradients (in rare cases all negative: it climbs); Aligned-MTL neither. TorchJD's solvers
    keep it up to cosines of some -0.01: UPGrad adds 1e-4 of the trace to the diagonal, MGDA stops after 100 iterations.
    With norms 100 apart that ridge is all that the small task has, and UPGrad's promise to it goes (cosines down to
    -0.2 were seen); `unit="norm"` restores it.

    Weights may be zero or negative. Under "budget" and "sum" a Balancer needs a positive factor for them, and keeps the
    old weights where there is none; "none" takes f's as they are.

    Args:
        weighting: f. An nn.Module becomes a part of the rule, moved and saved with it.
        unit: "common": K over the power of four that brings its trace to [1, 4), since methods have constants
            (TorchJD's UPGrad takes a K of trace below 1e-4 for zero). "norm": the Gramian of
            :math:`g_i / \|g_i\|`, and f's weights over the norms. "none": K as it is, for an f that remembers its size.
        absent: What f sees while a task is absent or has no gradient. "drop": the Gramian of the others. "zero": that
            of all with a zero row and column, for an f with a preference or a memory for each task. Under "zero" MGDA
            gives all weight to the absent task, whose gradient is the shortest.
        seed: Of the random numbers that f draws on the CPU (PCGrad's order): the same on all ranks and after a resume,
            and none are taken from yours.

    Raises:
        ValueError: `weighting` is not callable or gave something else than one weight a task; `unit` or `absent` is
            none of those.

    Note:
        Deviation: of the unit, of absent tasks and of random numbers, as said; f itself is as given. What f keeps in
        its buffers is saved and goes on, also where these are None before the first call (TorchJD's CRMOGMWeighting,
        which by itself does not load). TorchJD 0.18's GradVacWeighting and PCDWeighting keep beside their buffers a
        key that is not saved: after a resume they start anew.

    Example:
        >>> from truestep.multitask._rule import Readings
        >>> def shortest(gram):  # of two tasks: the shortest of the vectors between their gradients, MGDA
        ...     w = ((gram[1, 1] - gram[0, 1]) / (gram[0, 0] + gram[1, 1] - 2 * gram[0, 1])).clamp(0, 1)
        ...     return torch.stack([w, 1 - w])
        >>> one, gram = torch.ones(2).double(), torch.tensor([[1.0, -1.0], [-1.0, 4.0]]).double()
        >>> rule = Surgery(shortest)
        >>> rule.start(("depth", "pose"))
        >>> w = rule.weigh(Readings(one, one, one, one.bool(), one, gram=gram))
        >>> w, gram @ w  # no conflict with either
        (tensor([0.7143, 0.2857], dtype=torch.float64), tensor([0.4286, 0.4286], dtype=torch.float64))

    References:
        Sener, Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018, section 3.3 (MGDA-UB).
        Quinton, Rey, "Jacobian Descent for Multi-Objective Optimization", 2024 (UPGrad, and the promises).
    """

    reads = "gram"
    positive = False
    _calls: Tensor

    def __init__(
        self,
        weighting: Callable[[Tensor], Any],
        *,
        unit: Unit = "common",
        absent: Absent = "drop",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not callable(weighting):
            msg = f"`weighting` must be a callable from a Gramian [T, T] to T weights; found {weighting!r}"
            raise ValueError(msg)
        for name, value, known in (("unit", unit, get_args(Unit)), ("absent", absent, get_args(Absent))):
            if value not in known:
                msg = f"`{name}` must be one of {', '.join(known)}; found {value!r}"
                raise ValueError(msg)
        self.weighting = weighting
        self._unit, self._absent, self._seed = unit, absent, seed

    def _make(self, tasks: tuple[str, ...]) -> None:  # noqa: ARG002 (one counter for all)
        self.register_buffer("_calls", torch.zeros((), dtype=torch.float64))

    def weigh(self, seen: Readings) -> PerTask:
        """What `weighting` makes of the Gramian; 0 for tasks not active."""
        assert seen.gram is not None  # `reads` asked for it
        self._calls.add_(1)
        gram = torch.where(seen.active[:, None] & seen.active, seen.gram, 0.0)
        if self._unit != "norm":
            return self._ask(in_binary_unit(gram) if self._unit == "common" else gram, seen.active)
        norms = torch.where(seen.active, gram.diagonal().sqrt(), 1.0)
        return self._ask(gram / torch.outer(norms, norms), seen.active) / norms

    def _ask(self, gram: Gramian, active: Bool[Tensor, " tasks"]) -> PerTask:
        """The weighting's answer, for the tasks that it shall see."""
        # Rows are chosen on the host. That waits for the device, as the weightings do themselves: TorchJD's solve on
        # the CPU, or branch on values.
        rows = active.nonzero().squeeze(1) if self._absent == "drop" else torch.arange(len(gram), device=gram.device)
        out = torch.zeros_like(gram[0])
        if len(rows) == 0:
            return out
        with torch.no_grad(), _own_random(self._seed + int(self._calls)):
            found = self.weighting(gram[rows][:, rows])
        if not isinstance(found, Tensor) or found.shape != rows.shape:
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            msg = f"`weighting` must give a tensor of {len(rows)} weights for that many tasks; got {what}"
            raise ValueError(msg)
        return torch.where(active, out.index_copy(0, rows, found.to(out)), 0.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **keywords: Any) -> None:
        """As usual, with room for what a weighting makes in its first call only (its buffers are None before)."""
        modules = dict(self.weighting.named_modules()) if isinstance(self.weighting, nn.Module) else {}
        for key, value in state_dict.items():
            path, _, name = key.removeprefix(f"{prefix}weighting.").rpartition(".")
            buffers = modules[path]._buffers if path in modules and key.startswith(f"{prefix}weighting.") else {}
            if name in buffers and buffers[name] is None:
                buffers[name] = torch.empty_like(value)
        super()._load_from_state_dict(state_dict, prefix, *args, **keywords)


@contextmanager
def _own_random(seed: int) -> Generator[None]:
    """Random numbers of the CPU from `seed`, and afterwards as if none had been drawn."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)

"""Which arguments of a matched step go together."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, get_args

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from truestep.compare.step_matched._blocks import SCOPES
from truestep.compare.step_matched._factor import NORMS
from truestep.compare.step_matched._replay import Replay
from truestep.compare.step_matched._schedule import check_length

Decay = Literal["in", "out"]
FUNCTION = "function"


def check_arguments(
    optimizer: Optimizer, length: object, norm: object, scope: object, probe: object, decay: object
) -> None:
    """Raise a ValueError that names the argument which cannot be."""
    if isinstance(optimizer, LBFGS):
        msg = (
            "`optimizer` must not be LBFGS: its curvature pairs are made of its own steps, and would be wrong of steps "
            "of another length; match the optimizer that it is compared with to its lengths instead"
        )
        raise ValueError(msg)
    for name, found, accepted in (
        ("norm", norm, (*NORMS, FUNCTION)),
        ("scope", scope, SCOPES),
        ("decay", decay, get_args(Decay)),
    ):
        if found not in accepted:
            msg = f"`{name}` must be one of {', '.join(map(repr, accepted))}, found {found!r}"
            raise ValueError(msg)
    _check_probe(norm, scope, probe)
    _check_length(length, norm)


def _check_probe(norm: object, scope: object, probe: object) -> None:
    if norm != FUNCTION:
        if probe is not None:
            msg = f"`probe` must be None for norm={norm!r}, which looks at the weights alone; leave it out"
            raise ValueError(msg)
    elif not callable(probe):
        msg = f"`probe` must be a callable for norm='function' that gives the outputs of a fixed batch, found {probe!r}"
        raise ValueError(msg)
    elif scope != "global":
        msg = f"`scope` must be 'global' for norm='function': the outputs are of all weights at once, found {scope!r}"
        raise ValueError(msg)


def _check_length(length: Any, norm: object) -> None:
    if isinstance(length, Real):
        check_length(length, str(norm))
    elif isinstance(length, Replay):
        length.check_norm(str(norm))
    elif not (callable(length) or isinstance(length, Tensor | Sequence | Optimizer)) or isinstance(length, str):
        msg = (
            "`length` must be a number, a list of them, a callable, an optimizer on the same weights or a `replay`, "
            f"found {type(length).__name__}"
        )
        raise ValueError(msg)

"""Whether a product is that of a symmetric matrix, and the one that a finite difference of the slope finds."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.utils._pytree import tree_map

from truestep.conditioning.curvature._operator import AbstractCurvature
from truestep.conditioning.curvature._problem import Problem
from truestep.core import squared_norm
from truestep.core._mean_loss import mean_loss
from truestep.core._preserved import preserved

UNCONFIRMED = 0.05  # of the change along a direction; 1e-7 is usual
SMALLER = (1.0, 1e-2, 1e-4)  # of the longest step, until one agrees: long ones meet kinks, short ones rounding


def asymmetry(
    u: Float64[Tensor, " n"], v: Float64[Tensor, " n"], image_u: Float64[Tensor, " n"], image_v: Float64[Tensor, " n"]
) -> float:
    r"""How far :math:`u^\top A v` is from :math:`v^\top A u`, as a share of what such products of random vectors are.

    .. math:: \frac{|u^\top A v - v^\top A u|\,\sqrt{n}}{\sqrt{|Au||v||Av||u|}}

    About 1 for a matrix without any symmetry, whatever its size; rounding otherwise.

    Example:
        >>> import torch
        >>> u, v = torch.eye(2, dtype=torch.float64)
        >>> asymmetry(u, v, image_u=2 * v, image_v=2 * u), round(asymmetry(u, v, image_u=2 * v, image_v=-2 * u), 3)
        (0.0, 2.828)
    """
    size = sqrt(float(u.norm() * image_v.norm() * v.norm() * image_u.norm()) / len(u))
    return float((u @ image_v - v @ image_u).abs()) / size if size else 0.0


def finite_difference(curvature: AbstractCurvature, direction: Sequence[Tensor]) -> float:
    r"""Relative difference of the slope's change along a direction d from its central difference; the best of three.

    .. math:: \frac{\left|\,s'd - \frac{s(w + hd) - s(w - hd)}{2h}\right|}{|s'd|}

    The slope s is the gradient for the Hessian, and the loss's gradient at the outputs for the GGN. It is evaluated
    anew in float64 with the same random numbers: in float32 the smallest step that rounding allows crosses kinks of
    ReLU, which second derivatives do not see. Where model or loss do not run in float64, or draw other numbers in it,
    or disagree, it is evaluated in the model's own dtype too, and the better agreement counts.

    h moves the weights by the cube root of rounding, relative to their norm, or by 1e-2 or 1e-4 of that. A change below
    the cube root of rounding of :math:`|s| / |w|` counts as that much: no difference resolves less.

    Weights, buffers and random state are put back; the curvature's graph is spent.
    """
    norm = squared_norm(direction).sqrt()
    unit = [d / norm for d in direction]
    expected = [change.detach() for change in curvature.change(unit)]
    found, eps = float("inf"), curvature.problem.eps  # here, as the parameters change their dtype
    with preserved(curvature.problem.model):
        try:
            with _in_float64(curvature.problem) as problem:
                if not curvature.drew or _same_draw(curvature.loss, problem, eps):
                    found = _disagreement(type(curvature), problem, unit, expected)
        except Exception:  # noqa: BLE001  # the user's own: a constant that is float32, an assertion on the dtype
            found = float("inf")
        if found <= UNCONFIRMED:
            return found
        return min(found, _disagreement(type(curvature), curvature.problem, unit, expected))


def _same_draw(loss: float, problem: Problem, eps: float) -> bool:
    """Whether the loss in float64 is this one, but for rounding: normal numbers of another dtype are others."""
    with problem.undisturbed(), torch.no_grad():
        again = float(mean_loss(problem.loss_fn(problem.model, problem.batch))[0])
    return abs(loss - again) <= 1e3 * eps * max(abs(loss), abs(again))


def _disagreement(
    kind: type[AbstractCurvature], problem: Problem, unit: Sequence[Tensor], expected: Sequence[Tensor]
) -> float:
    resolution = problem.eps ** (1 / 3)
    length = resolution * (float(squared_norm([p.detach() for p in problem.tensors]).sqrt()) or 1.0)
    errors = list[float]()
    for part in SMALLER:
        up, down = (_slope_at(kind, problem, unit, sign * part * length) for sign in (1, -1))
        differences = [(a - b) / (2 * part * length) for a, b in zip(up, down, strict=True)]
        off = squared_norm([x - y for x, y in zip(differences, expected, strict=True)]).sqrt()
        least = resolution**2 * squared_norm(up).sqrt() / length  # of |s| / |w|
        errors.append(float(off / torch.maximum(squared_norm(expected).sqrt(), least)) if off else 0.0)
        if errors[-1] < resolution:
            break
    return min(errors)


def _slope_at(kind: type[AbstractCurvature], problem: Problem, unit: Sequence[Tensor], h: float) -> list[Tensor]:
    """The slope where the weights are moved by h along the unit direction."""
    with preserved(problem.model):
        with torch.no_grad():
            for p, d in zip(problem.tensors, unit, strict=True):
                p.add_(d.to(p), alpha=h)
        return [s.detach().clone() for s in kind(problem).slope]


@contextmanager
def _in_float64(problem: Problem) -> Generator[Problem, None, None]:
    """The problem with all floats of model and batch in float64; the parameters stay the same objects.

    Buffers are put back by `preserved`, within which this is used.
    """
    held = [(p, p.data) for p in problem.model.parameters()]
    try:
        for p, values in held:
            p.data = _double(values)
        for module in problem.model.modules():
            own: dict[str, Tensor | None] = vars(module)["_buffers"]
            own.update({name: _double(x) for name, x in own.items()})
        yield replace(problem, batch=tree_map(_double, problem.batch))
    finally:
        for p, values in held:
            p.data = values


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x

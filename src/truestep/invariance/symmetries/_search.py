"""From rows of S to tensors and generators: candidates from S, each confirmed where eps matters less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan
from typing import Final

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from truestep.invariance.symmetries._exponents import Vector, basis, readable
from truestep.invariance.symmetries._granularity import granularity
from truestep.invariance.symmetries._null_space import null_space
from truestep.invariance.symmetries._probe import Probe, Row

MARGIN = 8  # rows beyond the rank of S, where the budget allows
CANDIDATE = 0.03  # cosine, and share of the largest singular value, up to which a symmetry is looked for
LOOSE = 0.1
LARGEST = 2e-3  # residual of a symmetry: eps leaves 3e-5 (in a layer whose eps is not found 3e-3); an almost-ReLU 4e-3
BUDGET = 8  # passes beyond one for each tensor: all of them, unless a candidate is refuted
AGAIN = 3  # rows that are probed again with a candidate's weights scaled by C along its exponents
OWN_LEAST = 3  # passes kept for the model's own weights
MOST_TRIES = 6  # sets of candidates, 3 passes each
C: Final = 16.0
FALLS: Final = (0.5 * C**-2, 2 * C**-2)  # what eps leaves falls as c^-2; where a function saturates it is otherwise
ROUNDING = 100  # residuals of so many eps are rounding; the same for sizes over the largest
SMALL = 3  # times that, where a softmax has cancelled digits


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of S and their natural sizes, each row over its largest size."""

    wg: Float64[Tensor, "rows tensors"]
    size: Float64[Tensor, "rows tensors"]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Rows:
        largest = torch.stack([row.size.max() for row in rows]).unsqueeze(1)
        largest = torch.where(largest == 0, torch.ones_like(largest), largest)
        return cls(torch.stack([row.wg for row in rows]) / largest, torch.stack([row.size for row in rows]) / largest)

    def residual(self, exponents: Sequence[int]) -> float:
        r"""Root mean square over rows of :math:`|\sum a_k S_k| / \sqrt{\sum a_k^2 \|w_k\|^2\|g_k\|^2}`; nan of none."""
        a = torch.tensor(exponents, dtype=torch.float64)
        size = (self.size * a).norm(dim=1)
        return float(((self.wg @ a) / size)[size > 0].square().mean().sqrt()) if bool((size > 0).any()) else nan

    def share(self, exponents: Sequence[int]) -> float:
        """Root mean square of the same sum over the row's largest size: what rounding of the others may leave there."""
        a = torch.tensor(exponents, dtype=torch.float64)
        return float(((self.wg @ a) / a.norm()).square().mean().sqrt())

    def cancelled(self, exponents: Sequence[int]) -> float:
        r"""Median of the same over :math:`\sqrt{\sum a_k^2 S_k^2}`: how far the terms cancel; deaf to none of them."""
        terms = self.wg * torch.tensor(exponents, dtype=torch.float64)
        size = terms.norm(dim=1)
        return float((terms.sum(1) / size)[size > 0].abs().median()) if bool((size > 0).any()) else 0.0

    def without_effect(self, rounding: float) -> Bool[Tensor, " tensors"]:
        return self.size.max(0).values <= rounding

    def cosines(self) -> Float64[Tensor, " tensors"]:
        cosines = torch.where(self.size > 0, self.wg / self.size, torch.zeros_like(self.wg))
        return cosines.square().mean(0).sqrt()


@dataclass(frozen=True, slots=True)
class Found:
    """Positions of tensors without effect and alone (with label and width), and generators over all tensors."""

    no_effect: tuple[int, ...]
    alone: dict[int, tuple[str, int]]
    joint: list[Vector]


def search(probe: Probe, rounding: float) -> tuple[Found, int]:
    """All that S shows, and how many rows it had."""
    rows = collected(probe, rounding)
    taken = probe.passes
    none = rows.without_effect(rounding)
    alone, joint = confirmed(probe, rows, none, rounding)
    single = {at: ("tensor", _num_units(probe.parameters[at])) for v in joint if (at := _only(v)) is not None}
    joint = [v for v in joint if _only(v) is None]
    return Found(tuple(none.nonzero().flatten().tolist()), alone | single, joint), taken


def _only(vector: Vector) -> int | None:
    """Position of a vector's only entry, if it has but one."""
    at = [k for k, x in enumerate(vector) if x]
    return at[0] if len(at) == 1 else None


def _num_units(p: Tensor) -> int:
    return p.shape[0] if p.dim() else 1


def collected(probe: Probe, rounding: float) -> Rows:
    """Rows at random weights until there are `MARGIN` more than their rank, or no passes are left but those to come.

    Raises:
        ValueError: If half of them or more are not finite.
    """
    most = len(probe.parameters) + BUDGET - AGAIN - OWN_LEAST
    rows = list[Row]()
    for index in range(most):
        row = probe.row(index)
        rows += [] if row is None else [row]
        if len(rows) > MARGIN and _enough(Rows.of(rows), rounding):
            break
    if len(rows) <= probe.passes // 2:
        msg = f"`loss_fn` gave NaN or infinite gradients at {probe.passes - len(rows)} of {probe.passes} random weights"
        raise ValueError(f"{msg} near the model's; check that the weights and batches are finite")
    return Rows.of(rows)


def _enough(rows: Rows, rounding: float) -> bool:
    seen = (~rows.without_effect(rounding)).nonzero().flatten()
    if not len(seen):
        return True
    return len(rows.wg) >= len(seen) - null_space(rows.wg[:, seen]).dimension + MARGIN


def confirmed(
    probe: Probe, rows: Rows, none: Bool[Tensor, " tensors"], rounding: float
) -> tuple[dict[int, tuple[str, int]], list[Vector]]:
    """Tensors alone (label and width) and generators over the rest: all that fall when probed again at once.

    A tensor that does not fall is no candidate any more, and the rest is looked at anew; where only generators do not,
    those that do are kept, the direction that S sees best is given up, and what is left is tried again.
    """
    number = len(none)
    alone = (~none & (rows.cosines() < CANDIDATE)).nonzero().flatten().tolist()
    given_up, kept, units = 0, list[Vector](), dict[int, list[Tensor]]()
    for _ in range(MOST_TRIES):
        joint, given_up = _generators(rows, [k for k in range(number) if not none[k] and k not in alone], given_up)
        single = [tuple(int(k == at) for k in range(number)) for at in alone]
        if not single and not joint:
            break
        units = {at: list[Tensor]() for at in alone}
        again = Rows.of(list(_again(probe, [*single, *joint], units)))
        fallen = [at for at, v in zip(alone, single, strict=True) if _falls(rows, again, v, rounding)]
        if fallen != alone:
            alone, given_up, units = fallen, 0, {}
            continue
        fell = [v for v in joint if _falls(rows, again, v, rounding)]
        kept += fell
        if fell == joint:
            break
        given_up += 1
    return {at: granularity(torch.stack(seen)) for at, seen in units.items()}, basis(kept)


def _generators(rows: Rows, left: list[int], given_up: int) -> tuple[list[Vector], int]:
    """The largest readable space of generators over the tensors in `left` whose terms cancel, and what it gives up."""
    if not left:
        return [], given_up
    space = null_space(rows.wg[:, left])
    loose = int((space.values < LOOSE).sum())
    for given in range(given_up, loose):
        vectors = readable(space.directions[: loose - given])
        whole = [_spread(v, left, rows.wg.shape[1]) for v in vectors or []]
        if whole and all(rows.cancelled(v) <= LOOSE for v in whole):
            return whole, given
    return [], loose


def _spread(vector: Vector, at: list[int], number: int) -> Vector:
    placed = dict(zip(at, vector, strict=True))
    return tuple(placed.get(k, 0) for k in range(number))


def _again(probe: Probe, vectors: Sequence[Vector], units: dict[int, list[Tensor]]) -> Iterator[Row]:
    """Rows at weights scaled by `C` along all vectors at once: what is a symmetry is one at every weight."""
    exponents = torch.tensor(vectors, dtype=torch.float64).sum(0)
    for index in range(AGAIN):
        row = probe.row(index, exponents, C)
        if row is not None:
            for at, seen in units.items():
                seen.append(probe.units(at))
            yield row


def _falls(rows: Rows, again: Rows, vector: Vector, rounding: float) -> bool:
    """Whether the residual is small and falls as c^-2, or to rounding.

    Both are needed: a SiLU is nearly a ReLU, and a tanh a sign, at weights so large.
    """
    first = Rows(rows.wg[:AGAIN], rows.size[:AGAIN])  # the same weights and batches: only the scale differs
    before, after = first.residual(vector), again.residual(vector)
    if max(before, rows.residual(vector)) > LARGEST:
        return False
    if after <= SMALL * rounding or again.share(vector) <= rounding:
        return True
    return FALLS[0] * before <= after <= FALLS[1] * before

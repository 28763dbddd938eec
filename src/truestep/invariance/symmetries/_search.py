"""From rows of S to tensors and generators: candidates from S, each confirmed where eps matters less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from truestep.invariance.symmetries._exponents import Vector, readable
from truestep.invariance.symmetries._granularity import granularity
from truestep.invariance.symmetries._null_space import null_space
from truestep.invariance.symmetries._probe import Probe, Row

MARGIN = 8  # rows beyond the rank of S
CANDIDATE = 0.03  # cosine, and share of the largest singular value, up to which a symmetry is looked for
LOOSE = 0.1
AGAIN = 3  # rows that are probed again with a candidate's weights scaled by C along its exponents
C: Final = 16.0
FALL = C**-1.5  # nearer to c^-2, an eps, than to c^-1: gamma alone while beta is small beside it
ROUNDING = 100  # residuals of so many eps are rounding; the same for sizes over the largest


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
        r"""Root mean square over rows of :math:`|\sum a_k S_k| / \sqrt{\sum a_k^2 \|w_k\|^2\|g_k\|^2}`."""
        a = torch.tensor(exponents, dtype=torch.float64)
        size = (self.size * a).norm(dim=1)
        return float(((self.wg @ a) / size)[size > 0].square().mean().sqrt()) if bool((size > 0).any()) else 0.0

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
    alone = confirmed_alone(probe, rows, (~none & (rows.cosines() < CANDIDATE)).nonzero().flatten().tolist(), rounding)
    left = [k for k in range(len(none)) if not none[k] and k not in alone]
    joint = confirmed_joint(probe, rows, left, rounding)
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
    """Rows at random weights until there are `MARGIN` more than their rank, at most as many more than tensors.

    Raises:
        ValueError: If half of them or more are not finite.
    """
    most = len(probe.parameters) + MARGIN
    rows = list[Row]()
    for index in range(most):
        row = probe.row(index)
        rows += [] if row is None else [row]
        if len(rows) > MARGIN and index % MARGIN == 0 and _enough(Rows.of(rows), rounding):
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


def confirmed_alone(probe: Probe, rows: Rows, candidates: list[int], rounding: float) -> dict[int, tuple[str, int]]:
    """Label and width of those candidates whose cosine falls when they are scaled up, at which the others were too."""
    while candidates:
        vectors = [tuple(int(k == at) for k in range(len(probe.parameters))) for at in candidates]
        again = Rows.of(list(_again(probe, vectors, {})))
        passed = [at for at, v in zip(candidates, vectors, strict=True) if _falls(rows, again, v, rounding)]
        if passed == candidates:
            units = {at: list[Tensor]() for at in candidates}
            list(_again(probe, vectors, units))  # once more: products by unit cost as much as a pass
            return {at: granularity(torch.stack(seen)) for at, seen in units.items()}
        candidates = passed
    return {}


def confirmed_joint(probe: Probe, rows: Rows, left: list[int], rounding: float) -> list[Vector]:
    """The largest readable space of generators over the tensors in `left` that all fall when probed again."""
    if not left:
        return []
    space = null_space(rows.wg[:, left])
    for number in range(int((space.values < LOOSE).sum()), 0, -1):
        vectors = readable(space.directions[:number])
        if vectors is None:
            continue
        whole = [_spread(v, left, len(probe.parameters)) for v in vectors]
        again = Rows.of(list(_again(probe, whole, {})))
        if all(_falls(rows, again, v, rounding) and rows.cancelled(v) <= LOOSE for v in whole):
            return whole
    return []


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
    """Whether the residual is rounding, at one of the scales, or falls as c^-2."""
    first = Rows(rows.wg[:AGAIN], rows.size[:AGAIN])  # the same weights and batches: only the scale differs
    before, after = first.residual(vector), again.residual(vector)
    return min(before, after) <= rounding or after <= FALL * before

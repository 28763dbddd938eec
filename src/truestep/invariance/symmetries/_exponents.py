"""A readable basis of a space of exponents: small whole numbers, few of them."""

from __future__ import annotations

from math import gcd

import torch
from jaxtyping import Float64
from torch import Tensor

Vector = tuple[int, ...]
ELIMINATIONS = 30  # orders in which the space is eliminated: each gives as many vectors with few entries as it has
NEAR = ((0.02, 4), (0.05, 3), (0.12, 2))  # distance up to which an entry is a fraction, of which denominators at most
WHOLE = 12  # makes each of the simple fractions whole
# What an eliminated entry may be, the simplest first: a small whole number over another.
SIMPLE = sorted(
    ((p, q) for q in range(1, 5) for p in range(-8, 9) if gcd(p, q) == 1), key=lambda x: (x[1] + abs(x[0]), x[1])
)


def readable(directions: Float64[Tensor, "generators columns"]) -> list[Vector] | None:
    r"""Basis with the least sums of \|exponents\| that was found; None where an entry is near no simple fraction.

    Example:
        >>> import torch
        >>> readable(torch.tensor([[1.0, 1.001, 0.0, -1.0], [0.0, -0.999, -1.0, 1.0]], dtype=torch.float64))
        [(1, 0, -1, 0), (0, 1, 1, -1)]
    """
    rows = eliminated(directions)
    exact = next((found for near, most in NEAR if (found := _snapped(rows, near, most)) is not None), None)
    return None if exact is None else shortest(exact)


def eliminated(
    directions: Float64[Tensor, "generators columns"], order: Float64[Tensor, " columns"] | None = None
) -> Float64[Tensor, "generators columns"]:
    """Reduced echelon form; each pivot is the largest entry left, times `order`."""
    rows = directions.clone()
    left = torch.ones(rows.shape[0], dtype=torch.bool)
    prefer = torch.ones(rows.shape[1], dtype=torch.float64) if order is None else order
    for _ in range(rows.shape[0]):
        size = (rows.abs() > 1e-9) * rows.abs().clamp_min(1e-9) ** (order is None) * prefer * left.unsqueeze(1)
        row, column = divmod(int(size.argmax()), rows.shape[1])
        rows[row] /= rows[row, column].clone()
        others = rows[:, column].clone()
        others[row] = 0.0
        rows -= others.unsqueeze(1) * rows[row]
        left[row] = False
    return rows


def shortest(exact: list[Vector]) -> list[Vector]:
    """Basis of the same space with short vectors: the shortest of many, then each less multiples of the others."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.tensor(exact, dtype=torch.float64)
    pool = set(exact)
    for _ in range(ELIMINATIONS if len(exact) > 1 else 0):
        order = torch.rand(matrix.shape[1], generator=generator, dtype=torch.float64)
        snapped = _snapped(eliminated(matrix, order), 1e-6)
        pool.update(snapped or [])
    return sorted(_reduced(_independent(sorted(pool, key=_length), len(exact))), key=_support)


def basis(vectors: list[Vector]) -> list[Vector]:
    """Short vectors that span what the given ones, perhaps too many, span."""
    chosen = _independent(sorted(set(vectors), key=_length), len(vectors))
    return shortest(chosen) if chosen else []


def _independent(vectors: list[Vector], wanted: int) -> list[Vector]:
    """The first vectors that do not depend on those before them: with the shortest first, the shortest basis."""
    chosen, basis = list[Vector](), list[Tensor]()
    for vector in vectors:
        rest = torch.tensor(vector, dtype=torch.float64)
        rest /= rest.norm()
        for _ in range(2):  # twice: one Gram-Schmidt loses digits
            for direction in basis:
                rest = rest - (rest @ direction) * direction
        if rest.norm() > 1e-6:
            basis.append(rest / rest.norm())
            chosen.append(vector)
        if len(chosen) == wanted:
            break
    return chosen


def _reduced(vectors: list[Vector]) -> list[Vector]:
    """Each vector less such multiples of the others as make it shorter."""
    vectors, better = list(vectors), True
    while better:
        better = False
        for i in range(len(vectors)):
            for j in range(len(vectors)):
                if i != j and not set(_support(vectors[i])).isdisjoint(_support(vectors[j])):
                    best = min(_combined(vectors[i], vectors[j]), key=_length)
                    if _length(best) < _length(vectors[i]):
                        vectors[i], better = best, True
    return vectors


def _combined(a: Vector, b: Vector) -> list[Vector]:
    pairs = ((1, 1), (1, -1), (2, 1), (2, -1), (1, 2), (1, -2))
    return [_primitive([p * x + q * y for x, y in zip(a, b, strict=True)]) for p, q in pairs]


def _snapped(rows: Float64[Tensor, "generators columns"], tolerance: float, most: int = 4) -> list[Vector] | None:
    """Rows as whole numbers without common divisor; None where an entry is near no simple fraction."""
    simple = [(p, q) for p, q in SIMPLE if q <= most]
    near = (rows.unsqueeze(-1) - rows.new_tensor([p / q for p, q in simple])).abs() <= tolerance
    if not bool(near.any(-1).all()):
        return None
    whole = rows.new_tensor([p * (WHOLE // q) for p, q in simple])[near.int().argmax(-1)].int()
    return [_primitive(row) for row in whole.tolist()]


def _primitive(vector: list[int]) -> Vector:
    """Without common divisor; more is scaled up than down, or else the first."""
    divisor = gcd(*vector) or 1
    total = sum(vector) or next((x for x in vector if x), 1)
    divisor = divisor if total > 0 else -divisor
    return tuple(x // divisor for x in vector)


def _support(vector: Vector) -> list[int]:
    return [k for k, x in enumerate(vector) if x]


def _length(vector: Vector) -> tuple[int, int, int, Vector]:
    """Sum of |exponents|; among equals small exponents, then neighbours, come first."""
    at = _support(vector)
    return sum(map(abs, vector)), sum(x * x for x in vector), at[-1] - at[0], vector

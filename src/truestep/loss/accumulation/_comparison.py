"""Two gradients compared, and one written as a combination of others: inner products in float64, over all shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core._additive import reduced
from truestep.core._sharding import Shards, local, shards

Gradients = dict[str, Tensor]  # by parameter name; a name that one side lacks counts as zero
CHUNK: Final = 1 << 17  # elements converted to float64 at a time
RESOLVED: Final = 1e-8  # smallest eigenvalue (of unit gradients) up to which weights are told apart to 1e-3


@dataclass(frozen=True, slots=True)
class Comparison:
    r"""Gradient :math:`a` against reference :math:`r`, each with all parameters seen as one vector; nan where 0/0.

    Args:
        norm: :math:`\|a\|`.
        reference_norm: :math:`\|r\|`.
        factor: :math:`\langle a, r \rangle / \|r\|^2`, the multiple of the reference nearest to the gradient.
        cosine: :math:`\langle a, r \rangle / \|a\|\|r\|`.
        relative_error: :math:`\|a - r\| / \|r\|`.
        turned: Share of :math:`\|a\|` that no multiple of the reference explains: the sine of the angle between them.
    """

    norm: float
    reference_norm: float
    factor: float
    cosine: float
    relative_error: float
    turned: float = 0.0

    @property
    def ratio(self) -> float:
        r""":math:`\|a\| / \|r\|`."""
        return self.norm / self.reference_norm if self.reference_norm else float("nan")


@dataclass(frozen=True, slots=True)
class Fit:
    r"""A gradient :math:`a` as a combination :math:`\sum_i c_i g_i` of the micro-batches' gradients.

    Args:
        weights: :math:`c`, by least squares; None where the gradients are too much alike to tell them apart.
        outside: Share of :math:`\|a\|` that no combination explains.
        mean_factor: The multiple of the mean :math:`\frac1k\sum_i g_i` nearest to the gradient.
        mean_error: Share of :math:`\|a\|` that no multiple of the mean explains.
        cancelled: :math:`\frac1k\sum_i \|g_i\| / \|a\|`, by how much the parts' rounding grows relative to the whole.
    """

    weights: tuple[float, ...] | None
    outside: float
    mean_factor: float
    mean_error: float
    cancelled: float = 1.0


def compare(accumulated: Gradients, reference: Gradients) -> Comparison:
    """How far a gradient is from its reference.

    Example:
        >>> found = compare({"w": torch.tensor([6.0, 8.0])}, {"w": torch.tensor([3.0, 4.0])})
        >>> found.ratio, found.cosine, found.relative_error
        (2.0, 1.0, 1.0)
    """
    vectors, nan = [accumulated, reference], float("nan")
    table = products(vectors, minus=1.0)
    aa, ar, rr, dd = (float(table[at]) for at in ((0, 0), (0, 1), (1, 1), (2, 2)))
    a, r, factor = aa**0.5, rr**0.5, ar / rr if rr else nan
    across = float(products(vectors, minus=factor)[2, 2]) if a and factor < float("inf") else nan
    return Comparison(
        norm=a,
        reference_norm=r,
        factor=factor,
        cosine=min(max(ar / (a * r), -1.0), 1.0) if a and r else nan,
        relative_error=(dd / rr) ** 0.5 if rr else nan,
        turned=across**0.5 / a if a else nan,  # measured: 1 - cosine^2 loses half of the digits at small angles
    )


def fit(target: Gradients, parts: Sequence[Gradients]) -> Fit:
    """Which weights of the parts give the target.

    Args:
        target: The gradient to explain.
        parts: Gradient of each micro-batch's own mean loss.

    Example:
        >>> parts = [{"w": torch.tensor([1.0, 0.0, 2.0])}, {"w": torch.tensor([0.0, 1.0, 1.0])}]
        >>> found = fit({"w": torch.tensor([0.25, 0.75, 1.25])}, parts)
        >>> [round(weight, 6) for weight in found.weights], round(found.outside, 6)
        ([0.25, 0.75], 0.0)
    """
    table = products([target, *parts]).cpu()
    aa, b, gram = float(table[0, 0]), table[0, 1:], table[1:, 1:]
    norms = gram.diagonal().sqrt()
    if not (bool(table.isfinite().all()) and aa > 0):
        return Fit(None, float("nan"), float("nan"), float("nan"))
    unit = torch.where(norms > 0, 1 / norms, 0.0)
    values, vectors = torch.linalg.eigh(unit[:, None] * gram * unit)
    kept = values > RESOLVED
    inverse = torch.where(kept, 1 / values, 0.0)
    weights = unit * (vectors @ (inverse * (vectors.T @ (unit * b))))
    mean, of_mean = float(gram.mean()), float(b.mean())
    return Fit(
        weights=tuple(weights.tolist()) if int(kept.sum()) == int((norms > 0).sum()) else None,
        outside=_share(aa - 2 * float(weights @ b) + float(weights @ gram @ weights), aa),
        mean_factor=of_mean / mean if mean else float("nan"),
        mean_error=_share(aa - of_mean**2 / mean if mean else aa, aa),
        cancelled=float(norms.mean()) / aa**0.5,
    )


def products(vectors: Sequence[Gradients], *, minus: float | None = None) -> Float64[Tensor, "n n"]:
    """Inner products of all pairs; with `minus`, of a last vector too: the first less `minus` times the second."""
    width = len(vectors) + (minus is not None)
    sums: dict[Shards, Tensor] = {}
    for row in _aligned(vectors):
        held = next(x for x in row if x is not None)
        cut = shards(held)  # its sum stands here even if this rank holds no element: collectives need every rank
        sums.setdefault(cut, torch.zeros(width, width, dtype=torch.float64, device=local(held).device))
        for rows in _rows([None if x is None else _flat(x) for x in row]):
            whole = rows if minus is None else torch.cat([rows, rows[:1] - minus * rows[1:2]])
            sums[cut] = sums[cut].to(rows.device) + whole @ whole.T
    total = torch.zeros(width, width, dtype=torch.float64)
    for cut, part in sums.items():
        for mesh, dim in cut:
            part = reduced(part, mesh.get_group(dim))  # noqa: PLW2901
        total = total.to(part.device) + part
    return total


def _share(square: float, whole: float) -> float:
    return (max(square, 0.0) / whole) ** 0.5


def _aligned(vectors: Sequence[Gradients]) -> Iterator[list[Tensor | None]]:
    """Each parameter's gradients, None for zero."""
    for name in dict.fromkeys(name for vector in vectors for name in vector):
        yield [vector.get(name) for vector in vectors]


def _flat(x: Tensor) -> Tensor:
    x = local(x)
    x = x.to_dense() if x.layout != torch.strided else x
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).reshape(-1)


def _rows(flat: list[Tensor | None]) -> Iterator[Float64[Tensor, "n chunk"]]:
    """Pieces of the vectors as rows of float64."""
    first = next(x for x in flat if x is not None)
    for start in range(0, first.numel(), CHUNK):
        at = slice(start, start + CHUNK)
        size = len(first[at])
        zero = torch.zeros(size, dtype=torch.float64, device=first.device)
        yield torch.stack([zero if x is None else x[at].to(first.device, torch.float64) for x in flat])

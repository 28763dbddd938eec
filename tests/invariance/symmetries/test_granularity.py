"""The smallest parts that are orthogonal to their gradients are named."""

from __future__ import annotations

import pytest
import torch

from truestep.invariance.symmetries._granularity import granularity, residual


def units(*wg: float) -> torch.Tensor:
    return torch.tensor([[[x, 1.0] for x in wg]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("wg", "expected"),
    [
        ((0.0, 1e-4, 0.0, 0.0), ("unit", 1)),
        ((0.2, -0.2, 0.1, -0.1), ("group", 2)),
        ((0.2, 0.1, -0.1, -0.2), ("tensor", 4)),
        ((0.2, -0.1, -0.1, 0.3, -0.2, -0.1), ("group", 3)),
        ((0.0,), ("tensor", 1)),
    ],
)
def test_the_narrowest_parts_are_named(wg: tuple[float, ...], expected: tuple[str, int]) -> None:
    assert granularity(units(*wg)) == expected


def test_a_dead_part_counts_for_nothing() -> None:
    parts = units(1e-4, 0.0)
    parts[0, 1] = torch.tensor([1e-9, 1e-9])  # rounding, in no proportion
    assert residual(parts, 1) == pytest.approx(1e-4)

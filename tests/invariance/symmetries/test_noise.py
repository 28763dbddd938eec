"""Random weights are near the given ones, of an ordinary size, and the same for the same generator."""

from __future__ import annotations

import torch
from torch import Tensor

from truestep.invariance.symmetries._noise import FAN, JITTER, MOST, SHIFT, STRETCH, Noise


def filled(w: Tensor, seed: int = 0, factor: float = 1.0) -> Tensor:
    p = torch.empty_like(w)
    Noise([w]).fill(p, w, factor, torch.Generator().manual_seed(seed))
    return p


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def test_a_constant_positive_tensor_stays_positive_and_near() -> None:
    for seed in range(50):
        p = filled(torch.full((30,), 0.5), seed) / 0.5
        scale = torch.e**JITTER
        assert p.min() > (1 - STRETCH - SHIFT) / scale
        assert p.max() < (1 + STRETCH + SHIFT) * scale


def test_zeros_are_filled_and_small_weights_brought_to_an_ordinary_size() -> None:
    for w in (torch.zeros(50, 20), 1e-6 * torch.randn(50, 20)):
        assert 0.5 < rms(filled(w)) / (FAN * 20**-0.5) < 2.0


def test_an_ordinary_weight_keeps_its_size_and_a_large_one_does_not() -> None:
    w = 0.2 * torch.randn(50, 20)
    assert 0.5 < rms(filled(w)) / rms(w) < 2.0
    assert 0.5 < rms(filled(1e3 * w)) / (MOST * FAN * 20**-0.5) < 2.0


def test_the_factor_is_exact() -> None:
    w = torch.randn(4, 5)
    torch.testing.assert_close(filled(w, factor=16.0), 16.0 * filled(w), rtol=1e-6, atol=0)


def test_rows_and_tensors_differ_and_a_seed_repeats() -> None:
    w = torch.randn(4, 5)
    assert torch.equal(filled(w, 1), filled(w, 1))
    directions = [filled(w, seed).flatten() / filled(w, seed).norm() for seed in range(2)]
    assert float(directions[0] @ directions[1]) < 0.999


def test_scalars_and_complex_tensors_are_taken() -> None:
    assert filled(torch.zeros(())) != 0
    assert filled(torch.randn(3, dtype=torch.complex64)).isfinite().all()

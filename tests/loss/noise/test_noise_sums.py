"""Noise and signal of a window: unbiased for every cut, by going through all draws there are."""

from functools import reduce
from itertools import product
from operator import add

import pytest
import torch
from tests.cases import assert_additive
from torch import Tensor

from truestep.loss.noise._noise_sums import NoiseSums, noise_and_signal, noise_sums

ITEMS = torch.tensor([[1.0, -2.0], [4.0, 3.0]], dtype=torch.float64)  # gradients of all items there are


def window_of(parts: list[Tensor], factors: list[float], weights: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Noise and signal of micro-batches that hold these gradients."""
    weights = weights or [torch.ones(len(part), dtype=torch.float64) for part in parts]
    means = [(w[:, None] * part).sum(0) / w.sum() for part, w in zip(parts, weights, strict=True)]
    sums = [
        noise_sums((f * mean).square().sum(), w.sum() ** 2 / w.square().sum(), f)
        for mean, f, w in zip(means, factors, weights, strict=True)
    ]
    added = reduce(add, [f * mean for mean, f in zip(means, factors, strict=True)])
    return noise_and_signal(reduce(add, sums), added.square().sum())


def averaged(sizes: list[int], factors: list[float], weights: list[Tensor] | None = None) -> Tensor:
    """Mean of both over all equally likely draws with replacement."""
    draws = product(range(len(ITEMS)), repeat=sum(sizes))
    both = [torch.stack(window_of(list(ITEMS[list(draw)].split(sizes)), factors, weights)) for draw in draws]
    return torch.stack(both).mean(0)


@pytest.mark.parametrize(
    ("sizes", "factors"),
    [
        ([1, 1], [1.0, 1.0]),
        ([2, 3], [2.0, 3.0]),  # summed losses: the union's gradient
        ([2, 3], [0.5, 0.5]),  # a mean of means
        ([1, 2, 3], [1.0, 2.0, 3.0]),
        ([1, 2, 1], [0.3, -0.2, 5.0]),  # whatever was done to the losses
    ],
)
def test_both_are_unbiased_for_every_size_and_factor(sizes: list[int], factors: list[float]) -> None:
    mean = ITEMS.mean(0)
    expected = torch.stack([(ITEMS - mean).square().sum() / len(ITEMS), mean.square().sum()])
    torch.testing.assert_close(averaged(sizes, factors), expected, rtol=1e-12, atol=0)


def test_items_of_unequal_weight_count_as_their_effective_number() -> None:
    weights = [torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor([0.5, 0.5, 2.0], dtype=torch.float64)]
    mean = ITEMS.mean(0)
    expected = torch.stack([(ITEMS - mean).square().sum() / len(ITEMS), mean.square().sum()])
    torch.testing.assert_close(averaged([2, 3], [4.0, 3.0], weights), expected, rtol=1e-12, atol=0)


def test_equal_micro_batches_have_the_formulas_of_the_paper() -> None:
    parts = torch.randn(4, 8, 5, dtype=torch.float64)
    b, whole = 8, 32
    m, q = parts.mean(1).square().sum(1).mean(), parts.mean((0, 1)).square().sum()
    noise, signal = window_of(list(parts), [0.25] * 4)
    torch.testing.assert_close(noise, (m - q) / (1 / b - 1 / whole), rtol=1e-12, atol=0)
    torch.testing.assert_close(signal, (whole * q - b * m) / (whole - b), rtol=1e-11, atol=0)


@pytest.mark.parametrize("c", [1e-10, 1e-3, 1e10])
def test_a_common_factor_changes_neither_ratio(c: float) -> None:
    parts = [torch.randn(n, 3, dtype=torch.float64) for n in (2, 5, 3)]
    noise, signal = window_of(parts, [2.0, 5.0, 3.0])
    scaled_noise, scaled_signal = window_of([c * part for part in parts], [2.0, 5.0, 3.0])
    torch.testing.assert_close(scaled_noise / scaled_signal, noise / signal, rtol=1e-9, atol=0)


def test_the_sums_of_micro_batches_add_up_over_any_grouping() -> None:
    squares = torch.rand(6, dtype=torch.float64)
    micro = [noise_sums(square, n + 1, 0.5 * n) for n, square in enumerate(squares)]
    assert_additive(reduce(add, micro), [reduce(add, micro[:2]), reduce(add, micro[2:5]), micro[5]])


def test_a_micro_batch_without_items_or_weight_adds_nothing_also_if_its_gradient_is_not_a_number() -> None:
    nan, two = torch.tensor([torch.nan, 2.0], dtype=torch.float64)
    for sums in (noise_sums(nan, 0, 1.0), noise_sums(two, 3, 0.0), noise_sums(nan, torch.tensor(0), torch.tensor(1.0))):
        assert [float(value) for value in (sums.square, sums.factor, sums.first, sums.second)] == [0.0] * 4


def test_one_micro_batch_alone_tells_nothing() -> None:
    noise, signal = window_of([ITEMS], [1.0])
    assert not torch.isfinite(noise)
    assert not torch.isfinite(signal)


def test_numbers_and_tensors_give_the_same_sums() -> None:
    square = torch.tensor(3.0, dtype=torch.float64)
    assert noise_sums(square, 4, 0.5) == noise_sums(square, torch.tensor(4), torch.tensor(0.5))
    assert noise_sums(square, 4, 0.5) == NoiseSums(*torch.tensor([6.0, 0.5, 0.125, 0.0625], dtype=torch.float64))

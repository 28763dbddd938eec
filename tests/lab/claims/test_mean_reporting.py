"""Reporting the mean: each verdict from typed-in numbers, and the cuts by hand."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._batch_size import network
from truestep.lab._digits import digits
from truestep.lab.claims.mean_reporting import (
    CUTS,
    RAGGED,
    SIZES,
    cut_errors,
    full,
    gradient_error,
    ignored,
    ignored_hard,
    judge,
    levels,
    plot,
    ragged,
)

LOSSES = torch.rand(1200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"sum_spread": 64.0, "mean_spread": 1.0, "noise_slope": -0.5}
    for name in CUTS:
        usual |= {f"{name}_{key}": 0.0 for key in ("rms", "bias", "sum_count", "gradient")}
    usual |= {"sum": [float(size) for size in SIZES], "mean": [1.0] * len(SIZES), "noise": [0.1] * len(SIZES)}
    return [usual | changed] * 2


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"ragged_rms": 0.009}, Verdict.SUPPORTED),
        ({"ignored_rms": 0.03}, Verdict.PARTLY),
        ({"ignored_hard_rms": 0.1}, Verdict.PARTLY),
        ({"ignored_gradient": 0.5}, Verdict.SUPPORTED),  # the claim is of the reported number
        ({"mean_spread": 1.05}, Verdict.REFUTED),
        ({"sum_spread": 1.0}, Verdict.INCONCLUSIVE),
    ],
)
def test_the_level_decides_and_the_cuts_limit(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_full_batches_are_equal_and_ragged_ones_but_the_last() -> None:
    assert {len(part) for part in full(LOSSES, generator())} == {RAGGED}
    assert [len(part) for part in ragged(LOSSES, generator())] == [128] * 9 + [48]


@pytest.mark.parametrize("name", list(CUTS))
def test_no_sample_is_counted_twice(name: str) -> None:
    kept = torch.cat(CUTS[name][1](LOSSES, generator()))
    assert len(kept.unique()) == len(kept) > 400


def test_short_rows_are_harder_only_where_it_says_so() -> None:
    def correlation(parts: list[torch.Tensor]) -> float:
        rows = torch.tensor([[len(part), LOSSES[part].mean().item()] for part in parts], dtype=torch.float64)
        return torch.corrcoef(rows.T)[0, 1].item()

    assert correlation(ignored_hard(LOSSES, generator())) < -0.6
    assert abs(correlation(ignored(LOSSES, generator()))) < 0.3


def test_a_mean_of_means_weights_a_sample_by_one_over_its_batch() -> None:
    losses = torch.tensor([1.0, 1.0, 1.0, 5.0], dtype=torch.float64)
    errors = cut_errors(losses, lambda *_: [torch.tensor([0, 1, 2]), torch.tensor([3])], generator(), draws=2)
    assert errors["bias"] == pytest.approx(3 / 2 - 1)  # (1 + 5) / 2 against 8 / 4
    assert errors["rms"] == pytest.approx(0.5)
    assert errors["sum_count"] == 0.0


@pytest.mark.parametrize("name", list(CUTS))
def test_sum_and_count_are_exact_for_every_cut(name: str) -> None:
    assert cut_errors(LOSSES, CUTS[name][1], generator(), draws=5)["sum_count"] < 1e-14


def test_the_gradient_of_a_mean_of_means_is_the_mean_s_for_equal_batches_only() -> None:
    model, data = network(0), digits()
    assert gradient_error(model, data, LOSSES, full, generator()) < 1e-5
    assert gradient_error(model, data, LOSSES, ignored, generator()) > 0.05


def test_the_mean_s_level_stays_and_the_sum_s_is_batch_size_times_it() -> None:
    for size in (8, 256):
        total, mean, noise = levels(LOSSES[:1024], size, generator())
        assert mean == pytest.approx(LOSSES[:1024].mean().item())
        assert total == pytest.approx(size * mean)
        assert noise > 0


def test_the_figure_shows_every_cut_twice() -> None:
    _, right = plot(typed_in(ignored_rms=0.5)).axes
    assert len(right.patches) == 2 * len(CUTS) + 2  # and two for the legend
    assert max(bar.get_width() for bar in right.patches) == 50.0

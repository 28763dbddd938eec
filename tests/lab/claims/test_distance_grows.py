"""The growing distance: each verdict from typed-in distances, and the OU process it is set against."""

from math import exp, log

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.distance_grows import (
    FITTED,
    GAPS,
    fit,
    judge,
    plot,
    run,
    simulated,
    squared_distances,
)


def typed_in(growth: float = 0.1, *, last: float = 0.1, grows: float = 1.0, ou: float = 0.0) -> list[Measurement]:
    logs = [growth * i for i in range(len(GAPS) - 1)]
    squared = [exp(value) for value in (*logs, logs[-1] + last)]
    one: Measurement = {"squared": squared, "predicted": [1.0] * len(GAPS), "grows": grows, "size": 4.0}
    one |= {"time": 1.0, "beyond": 1.5, "last": last, "ou_last": ou}
    return [one, one]


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (typed_in(), Verdict.SUPPORTED),
        (typed_in(grows=0.9), Verdict.PARTLY),
        (typed_in(last=0.01), Verdict.REFUTED),
        (typed_in(last=-0.1), Verdict.REFUTED),
        (typed_in(growth=-0.1), Verdict.INCONCLUSIVE),
        (typed_in(ou=0.1), Verdict.INCONCLUSIVE),
        ([typed_in(last=-0.1)[0], typed_in(last=0.3)[0]], Verdict.INCONCLUSIVE),
    ],
)
def test_the_last_doubling_tells_growth_from_a_constant(measured: list[Measurement], verdict: Verdict) -> None:
    assert judge(measured).verdict is verdict


def test_distances_are_between_snapshots_a_gap_apart() -> None:
    w = torch.randn(70, 2, 5, generator=torch.Generator().manual_seed(0))
    found = squared_distances(w)
    assert found.shape == (len(GAPS), 70 - 64, 2)
    assert found[3, 4, 1].item() == pytest.approx(((w[4 + 8, 1] - w[4, 1]) ** 2).sum().item())


def test_a_simulated_process_follows_the_formula_that_is_fitted() -> None:
    w = simulated(4.0, 400, torch.Generator().manual_seed(0))
    means = squared_distances(w).mean((1, 2)).tolist()
    for gap, mean in zip(GAPS, means, strict=True):
        assert mean == pytest.approx(500 * (1 - exp(-gap / 4.0)), rel=0.02)  # 2 tr Σ = 500, variance 1/2
    level, time = fit(means)
    assert (level, time) == (pytest.approx(500, rel=0.03), pytest.approx(4.0, rel=0.05))
    assert abs(log(means[-1] / means[-2])) < 0.02


def test_a_random_walk_is_seen_to_grow_at_every_doubling() -> None:
    walk = torch.randn(130, 8, 500, generator=torch.Generator().manual_seed(0)).cumsum(0)
    means = squared_distances(walk).mean((1, 2))
    torch.testing.assert_close(means[1:] / means[:-1], torch.full((len(GAPS) - 1,), 2.0), rtol=0.1, atol=0)
    assert (squared_distances(walk).diff(dim=0) > 0).all()


def test_a_short_run_gives_the_distances_of_its_own_weights() -> None:
    measured = run(0, "cpu", time_scale=2)  # a snapshot a step
    assert set(measured) == set(typed_in()[0])
    squared = measured["squared"]
    assert isinstance(squared, list)
    level, time = fit(squared)
    assert measured["time"] == pytest.approx(time / 2)
    assert measured["beyond"] == pytest.approx(squared[-1] / (level * (1 - exp(-64 / time))))


def test_the_figure_marks_where_the_fit_ends() -> None:
    (axis,) = plot(typed_in()).axes
    assert axis.lines[-1].get_xdata()[0] == GAPS[FITTED - 1] / 2

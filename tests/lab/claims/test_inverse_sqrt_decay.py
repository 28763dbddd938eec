"""The inverse square root decay: each verdict from typed-in ratios, the law by hand, and a short run."""

import math

import pytest
import torch

from truestep.lab import Interval, Measurement, Verdict
from truestep.lab.claims.inverse_sqrt_decay import constant_gradient_walk, judge, law, plot, real_verdict, run


def ratios(*values: float, walk_error: float = 1e-3) -> list[Measurement]:
    common: Measurement = {
        "walk_error": walk_error,
        "ratio_measured_gradient": 1.0,
        "decay": 0.6,
        "predicted_decay": 0.2,
        "gradient_fall": 0.07,
        "step": [0.0, 1.0],
        "measured": [0.3, 0.2],
        "predicted": [0.3, 0.1],
        "walk": [0.1, 0.05],
    }
    return [common | {"ratio": value} for value in values]


@pytest.mark.parametrize(
    ("measurements", "verdict"),
    [
        (ratios(1.01, 1.02, 1.0), Verdict.SUPPORTED),
        (ratios(2.6, 2.7, 2.65), Verdict.PARTLY),
        (ratios(0.5, 0.51, 0.52), Verdict.PARTLY),
        (ratios(1.05, 1.15, 1.1), Verdict.INCONCLUSIVE),
        (ratios(1.01, 1.02, 1.0, walk_error=0.01), Verdict.REFUTED),
    ],
)
def test_the_interval_of_the_ratio_decides(measurements: list[Measurement], verdict: Verdict) -> None:
    assert judge(measurements).verdict is verdict


def test_the_bands_edges_belong_to_it() -> None:
    assert real_verdict(Interval(1.0, 1 / 1.1, 1.1)) is Verdict.SUPPORTED
    assert real_verdict(Interval(1.2, 1.1, 1.3)) is Verdict.INCONCLUSIVE
    assert real_verdict(Interval(0.9, 0.9, 1.2)) is Verdict.INCONCLUSIVE


def test_the_reason_says_by_how_much_the_decay_is_over_predicted() -> None:
    assert "2.65 [2.53, 2.77] times the prediction" in judge(ratios(2.6, 2.7, 2.65)).reason


def test_the_law_is_the_slides_formula() -> None:
    r, squared_gradient = torch.tensor([2.0]).double(), torch.tensor([8.0]).double()
    k0 = 2.0**2 / (2 * 0.5**2 * 8.0)  # r_0² / (2 lr² G) = 1
    expected = [0.25 / math.sqrt(1 + k / k0) for k in (0, 3, 8)]  # .25, .125, .0833
    got = law(r, squared_gradient, 0.5, torch.tensor([0, 3, 8]))[:, 0]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_the_walk_follows_its_exact_recursion() -> None:
    r, expected = 1.0, []
    for _ in range(20):
        expected.append(0.1 / r)
        r += 0.1**2 / r  # lr = .1, G = 1
    walk = constant_gradient_walk(0, "cpu", 20)
    torch.testing.assert_close(
        walk, torch.tensor(expected, dtype=torch.float64)[:, None].expand(20, 32), rtol=1e-12, atol=0
    )


def test_a_short_run_follows_the_law_once_each_steps_gradient_is_put_in() -> None:
    measured = run(0, "cpu", steps=60)
    assert measured["walk_error"] < 1e-3
    assert measured["ratio"] > 1.05  # the constant that the law assumes is already wrong here
    assert measured["ratio_measured_gradient"] == pytest.approx(1.0, abs=1e-3)
    assert measured["step"][0] == 0.0
    assert measured["step"][-1] == 59.0
    assert measured["measured"][0] == pytest.approx(measured["predicted"][0], rel=1e-12)


def test_at_the_first_step_nothing_has_decayed_yet() -> None:
    measured = run(0, "cpu", steps=1)
    for name in ("ratio", "ratio_measured_gradient", "decay", "predicted_decay"):
        assert measured[name] == pytest.approx(1.0, rel=1e-12)


def test_a_seed_gives_the_same_bits_again_and_another_seed_others() -> None:
    assert run(1, "cpu", steps=5) == run(1, "cpu", steps=5)
    assert run(1, "cpu", steps=5)["measured"] != run(2, "cpu", steps=5)["measured"]


def test_the_figure_sets_measured_beside_predicted() -> None:
    left, right = plot(ratios(2.6, 2.7)).axes
    for axis in (left, right):
        assert [text.get_text() for text in axis.get_legend().get_texts()] == ["predicted", "measured"]

"""AdaBelief's growth: each verdict from typed-in shares, and the ratio against the closed form."""

import pytest
import torch

from truestep.compare._belief import adabelief_growth
from truestep.lab import Measurement, Verdict
from truestep.lab._results import LONGEST_CURVE
from truestep.lab.claims.adabelief_growth import DRAWN, LOOKS, NOISES, STEPS, growth, judge, plot, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"error": 1e-9}
    for noise in NOISES:
        usual |= {f"{noise:g}_ten": 0.3, f"{noise:g}_curve": [1.0, 2.0]}
        usual |= {f"{noise:g}_at_{t}": 5.0 for t in LOOKS}
    return [usual | changed, usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.PARTLY),
        ({"1_ten": 0.0}, Verdict.PARTLY),
        ({f"{noise:g}_ten": 0.9 for noise in NOISES}, Verdict.SUPPORTED),
        ({f"{noise:g}_ten": 0.0 for noise in NOISES}, Verdict.REFUTED),
        ({"error": 0.1}, Verdict.INCONCLUSIVE),
    ],
)
def test_ten_times_must_be_where_the_ratio_stays(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_shares_about_a_half_are_inconclusive() -> None:
    shares = [typed_in(**{f"{noise:g}_ten": share for noise in NOISES})[0] for share in (0.4, 0.6)]
    assert judge(shares).verdict is Verdict.INCONCLUSIVE


def test_without_noise_the_ratio_is_the_closed_form() -> None:
    measured = growth(0.0, torch.Generator(), 40, "cpu")
    assert measured == pytest.approx(adabelief_growth(torch.arange(1, 41)).tolist(), rel=1e-9)


def test_noise_slows_the_growth() -> None:
    still, noisy = (growth(noise, torch.Generator().manual_seed(0), 100, "cpu")[-1] for noise in (0.0, 1.0))
    assert noisy < still / 2


def test_a_short_run_has_all_that_is_judged() -> None:
    measured = run(0, "cpu", count=20)
    assert set(measured) == set(typed_in()[0])
    assert measured["error"] < 1e-9
    assert measured["0_ten"] == 0


def test_the_figure_has_each_ratio_at_its_own_step() -> None:
    (axis,) = plot([run(0, "cpu", count=20)]).axes
    steps, ratios = axis.lines[0].get_data()
    assert ratios == pytest.approx(adabelief_growth(torch.tensor([*steps])).tolist())
    assert steps[-1] == 20
    assert DRAWN[-1] == STEPS
    assert len(DRAWN) <= LONGEST_CURVE  # a longer curve is thinned when it is kept


def test_the_figure_names_each_noise() -> None:
    (axis,) = plot(typed_in()).axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert [label for label in labels if label.startswith("noise")] == [f"noise {noise:g}" for noise in NOISES]

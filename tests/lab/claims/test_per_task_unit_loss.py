"""One unit loss a task: each verdict from typed-in numbers, and a short run."""

import math

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab import toy as lab_toy
from truestep.lab._toy_methods import best, unit
from truestep.lab.claims.per_task_unit_loss import LRS, METHODS, SETTINGS, judge, plot, run
from truestep.lab.toy import make_toy, scales


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for key, setting in SETTINGS.items():
        for name in METHODS if setting.apart else ("equal", "unit"):
            usual[f"{key}_{name}_mean"] = 0.5 if name == "unit" and setting.apart else 0.9
            usual[f"{key}_{name}_last"] = [0.9] * len(setting.sigmas)
    return [usual | changed, usual | {name: 1.01 * value for name, value in changed.items()}]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"same_unit_mean": 1.2}, Verdict.PARTLY),  # helps, but harms where there is nothing to mend
        ({"T2_unit_mean": 0.9}, Verdict.PARTLY),
        ({"T2_unit_mean": 0.9, "T10_unit_mean": 1.5}, Verdict.REFUTED),
        ({"T2_unit_mean": 0.9, "T10_unit_mean": 0.805}, Verdict.INCONCLUSIVE),
        ({"T2_oracle_mean": 0.1}, Verdict.SUPPORTED),  # told, not judged
    ],
)
def test_it_must_help_where_magnitudes_differ_and_not_harm_elsewhere(
    changed: dict[str, float], verdict: Verdict
) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_the_gain_is_the_logarithm_over_equal_weights() -> None:
    assert judge(typed_in()).intervals["T2_log_gain"].mean == pytest.approx(math.log(0.5 / 0.9))


def test_a_run_is_made_of_these_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_toy, "TEST", 30)
    found = run(0, "cpu", shorten=200)
    assert found["T2_unit_last"] == best(make_toy(scales(2), 0), unit, lrs=LRS, steps=2, seed=0).last
    assert {f"{key}_equal_mean" for key in SETTINGS} <= set(found)
    assert "same_oracle_mean" not in found


def test_the_figure_has_a_panel_for_each_setting() -> None:
    assert [axis.get_title() for axis in plot(typed_in()).axes] == [setting.title for setting in SETTINGS.values()]

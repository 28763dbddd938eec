"""Alpha 0: each verdict from typed-in numbers, the measure of unevenness by hand, and a short run."""

import math

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab import toy as lab_toy
from truestep.lab.claims.gradnorm_alpha_zero import METHODS, SETTINGS, TASKS, judge, plot, ratio, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for setting in SETTINGS:
        for name in METHODS:
            usual |= {f"{setting}_{name}_{key}": 0.1 for key in ("mean", "log_weights", "log_norms")}
            usual[f"{setting}_{name}_weights"] = [1.0] * TASKS
    return [usual | changed, usual | {name: 1.01 * value for name, value in changed.items()}]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"spread_zero_log_weights": 4.0}, Verdict.PARTLY),
        ({"spread_zero_log_weights": 4.0, "same_zero_log_weights": 0.5}, Verdict.REFUTED),
        ({"same_zero_log_weights": 0.5}, Verdict.INCONCLUSIVE),  # even with other scales, but not with the same
        ({"spread_zero_log_weights": 4.0, "same_zero_log_weights": math.log(1.25) - 1e-4}, Verdict.INCONCLUSIVE),
        ({"spread_half_log_weights": 4.0, "spread_zero_log_norms": 4.0}, Verdict.SUPPORTED),  # told, not judged
    ],
)
def test_equal_weights_are_asked_of_unlike_tasks_and_of_alike_ones(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_unevenness_is_of_geometric_means_over_the_later_half() -> None:
    looks = torch.tensor([[1e9, 1.0, 4.0, 1.0], [1.0, 1e9, 1.0, 1.0], [1.0, 1.0, 9.0, 1.0]])
    assert ratio(looks) == pytest.approx(math.log(3))


def test_in_a_run_alpha_0_evens_the_norms_and_not_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_toy, "TEST", 30)
    found = run(0, "cpu", steps=1)
    assert found["spread_zero_log_norms"] < 1e-6
    assert found["spread_zero_log_weights"] > 4  # the norms at the start go as sigma, 1 to 100
    assert found["same_zero_log_weights"] < 0.5
    assert sum(found["spread_zero_weights"]) == pytest.approx(TASKS)


def test_the_figure_has_both_settings() -> None:
    assert [axis.get_title() for axis in plot(typed_in()).axes] == list(SETTINGS.values())

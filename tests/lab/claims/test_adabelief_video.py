"""Rosenbrock and Beale: each verdict from typed-in distances, a rival that is Adam itself, a short run."""

import pytest
from torch.optim import Adam

from truestep.compare.problems import beale
from truestep.compare.training import Replica, train
from truestep.lab import Measurement, Verdict
from truestep.lab.claims.adabelief_video import ARMS, DRAWN, MULTIPLIERS, SETTINGS, judge, plot, rival, run

NUMBERS = {"log10_factor": 0.5, "path": 0.001, "path_at_one": 0.1, "residual": 0.01}


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for name in SETTINGS:
        usual |= {f"{name}_{arm}_{key}": value for arm in ARMS for key, value in NUMBERS.items()}
        usual[f"{name}_sign_path"] = 0.1
    usual |= {f"{name}_{key}": [1.0, 0.5] for name in DRAWN for key in ("adam", "fast", "other")}
    return [usual | changed, usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"beale_0.001_belief_residual": 0.2}, Verdict.PARTLY),
        ({"beale_0.001_belief_path": 0.1}, Verdict.INCONCLUSIVE),
        ({f"{name}_belief_path": 0.1 for name in SETTINGS}, Verdict.REFUTED),
        ({f"{name}_sign_path": 0.01 for name in SETTINGS}, Verdict.INCONCLUSIVE),
    ],
)
def test_the_path_first_and_then_one_factor(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_a_path_that_crosses_the_bound_is_inconclusive() -> None:
    one, other = (typed_in(**{"beale_0.01_belief_path": path})[0] for path in (0.01, 0.03))
    assert judge([one, other]).verdict is Verdict.INCONCLUSIVE


def test_adam_at_three_times_the_lr_walks_adams_path_three_times_as_fast() -> None:
    problem, steps = beale(), 16
    replicas = [Replica(0, 0, c) for c in MULTIPLIERS]
    adam = train(problem, lambda params: Adam(params, lr=1e-3), replicas, steps=steps, points=100, paths=True)
    found = rival(problem, lambda params, lr: Adam(params, lr=3 * lr), 1e-3, 0, adam, steps)
    assert found.speed.multiplier == pytest.approx(3, rel=0.01)
    assert found.speed.residual < 1e-3
    assert found.path < 1e-4


def test_a_short_run_has_all_that_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: SETTINGS[name] for name in ("rosenbrock_0.001", "beale_0.01")}
    monkeypatch.setattr("truestep.lab.claims.adabelief_video.SETTINGS", few)
    monkeypatch.setattr("truestep.lab.claims.adabelief_video.DRAWN", ("rosenbrock_0.001",))
    measured = run(0, "cpu", steps=12)
    assert set(measured) == {key for key in typed_in()[0] if key.startswith(tuple(few))}
    assert judge([measured, measured]).verdict in Verdict


def test_the_reason_has_plain_numbers_and_says_where_one_factor_and_the_contrast_fail() -> None:
    changed = {
        "beale_0.001_belief_residual": 0.7,
        "beale_0.001_belief_path_at_one": 0.287,
        "beale_0.01_sign_path": 0.01,
    }
    reason = judge(typed_in(**changed)).reason
    assert "e+" not in reason
    assert "29 % at Adam's own lr; SignSGD's 10 %), the loss 101 % off" in reason
    assert "One factor is not enough on Beale, lr 0.001:" in reason
    assert reason.endswith("walks Adam's path on Beale, lr 0.01: there the path does not tell them apart.")


def test_the_figure_says_how_many_times_as_fast() -> None:
    left, right = plot(typed_in()).axes
    assert left.get_title() == "Rosenbrock, lr 0.001: 3.2 times as fast"
    assert len(right.lines) == 2 * 3

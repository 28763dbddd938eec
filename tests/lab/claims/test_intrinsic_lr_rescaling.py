"""Rescaled starts: each verdict from typed-in differences, and the twins of a few steps."""

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.intrinsic_lr_rescaling import ARMS, MUST_DIFFER, SCALES, judge, plot, run, train


def typed_in(**changed: float) -> list[Measurement]:
    one: Measurement = {}
    for name in ARMS:
        for c in SCALES:
            value = 3.0 if name in MUST_DIFFER else 1e-15
            one[f"{name}_{c:g}"] = changed.get(name, value)
            one[f"{name}_{c:g}_accuracy"] = changed.get(f"{name}_accuracy", 0.0)
    return [one, one]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"default": 0.5}, Verdict.SUPPORTED),  # chaos parts the logits; the accuracy is judged
        ({"default_accuracy": 0.02}, Verdict.PARTLY),
        ({"default_accuracy": -0.02}, Verdict.PARTLY),
        ({"sgd": 1e-9}, Verdict.REFUTED),
        ({"adamw": 1.0, "momentum": 1.0}, Verdict.SUPPORTED),  # told, not judged
        ({"unscaled": 0.05, "sgd": 1e-9}, Verdict.INCONCLUSIVE),
    ],
)
def test_the_worst_twin_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


@pytest.mark.parametrize("name", ["sgd", "momentum", "head_apart", "adamw"])
def test_twins_have_the_same_logits(name: str) -> None:
    one, other = (train(ARMS[name], c, 0, "cpu", 8)[0] for c in (1.0, 5.0))
    assert (one - other).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["unscaled", "head_scaled", "adamw_squared"])
def test_what_leaves_the_law_parts(name: str) -> None:
    one, other = (train(ARMS[name], c, 0, "cpu", 8)[0] for c in (1.0, 0.1))
    assert (one - other).abs().max() > 0.1


def test_a_run_measures_every_arm_at_every_scale() -> None:
    measured = run(0, "cpu", steps=2)
    assert set(measured) == set(typed_in()[0])
    assert measured["sgd_5"] < 1e-10


def test_the_figure_has_a_row_for_each_arm() -> None:
    assert len(plot(typed_in()).axes[0].get_yticks()) == len(ARMS)

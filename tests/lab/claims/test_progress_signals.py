"""What weights follow: each verdict from typed-in numbers, elasticities by hand, the two fits, a short run."""

import math

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab import toy as lab_toy
from truestep.lab.claims.progress_signals import (
    METHODS,
    NAMED,
    NOISES,
    RULES,
    SIGNALS,
    SIZES,
    elasticities,
    judge,
    noise_seen,
    plot,
    run,
)


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {f"{rule}_{signal}": 0.0 for rule in RULES for signal in SIGNALS}
    usual |= {f"{rule}_{signal}": -1.0 for rule, signal in NAMED.items()}
    usual |= {"noise_first": 2.0, "noise_last": 0.01} | {f"{name}_mean": 0.8 for name in METHODS}
    return [usual | changed, usual | {name: 1.01 * value for name, value in changed.items()}]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"GradNorm_norms": -1.0}, Verdict.PARTLY),
        ({"UW_fast_mean": 0.7}, Verdict.PARTLY),
        ({"DTP_unit_mean": 0.1}, Verdict.SUPPORTED),  # told, not judged
        ({"DTP_kpis": 0.0, "GradNorm_norms": -1.0}, Verdict.REFUTED),
        ({"noise_last": -0.5}, Verdict.REFUTED),
        ({"DTP_kpis": 0.0498}, Verdict.INCONCLUSIVE),
        ({"noise_last": 0.0998}, Verdict.INCONCLUSIVE),
        ({"UW_norms": 0.0498}, Verdict.INCONCLUSIVE),
    ],
)
def test_the_named_signal_then_the_others_then_the_settings(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_each_rule_follows_what_its_formula_has() -> None:
    found = {name: elasticities(build, torch.Generator().manual_seed(0)) for name, build in RULES.items()}
    assert found["UW"] == pytest.approx({"losses": -1, "norms": 0, "ratios": 0, "kpis": 0}, abs=1e-12)
    assert found["GradNorm"] == pytest.approx({"losses": 0, "norms": -1, "ratios": 1.5, "kpis": 0}, abs=1e-12)
    assert {name: found["DTP"][name] for name in SIGNALS[:3]} == {"losses": 0, "norms": 0, "ratios": 0}
    assert found["DTP"]["kpis"] < -0.3


def test_at_the_start_of_a_fit_the_weights_show_the_loss_and_at_its_end_the_noise() -> None:
    first, last = noise_seen(torch.Generator().manual_seed(0), 300)
    losses = [size**2 + noise for size, noise in zip(SIZES, NOISES, strict=True)]
    expected = math.log(losses[1] / losses[0] * NOISES[0] / NOISES[1])
    assert first == pytest.approx(expected, abs=0.4)
    assert abs(last) < 0.15


def test_a_run_trains_each_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_toy, "TEST", 30)
    found = run(0, "cpu", steps=1, fit=2)
    assert all(0.5 < found[f"{name}_mean"] < 1.5 for name in METHODS)
    assert found["UW_mean"] == found["UW_fast_mean"]  # the first weights are before the first step of s


def test_the_figure_names_every_signal_and_method() -> None:
    left, right = plot(typed_in()).axes
    assert len(left.get_xticklabels()) == len(SIGNALS)
    assert len(right.get_yticklabels()) == len(METHODS)

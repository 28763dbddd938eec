"""Schedules under unit loss: each verdict from typed-in losses, invariance and problems on short runs."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._training import constant, flat_weights, mean_loss
from truestep.lab.claims import unit_loss_schedule
from truestep.lab.claims.unit_loss_schedule import (
    NONE,
    PROBLEMS,
    RULES,
    SCHEDULES,
    apart,
    best,
    judge,
    plot,
    pose,
    squared_error,
)


def losses(**changed: float) -> list[Measurement]:
    usual: Measurement = {f"{rule}_apart": 1e-15 for rule in RULES} | {"raw_apart": 1.0}
    for problem in PROBLEMS:
        for rule in RULES:
            for schedule in SCHEDULES:
                key = f"{problem}_{rule}_{schedule}"
                usual |= {f"{key}_loss": 0.01, f"{key}_spread": 2.0, f"{key}_curve": [1.0, 0.01]}
                usual |= {f"{key}_accuracy": 0.97} if problem == "digits" else {}
    return [usual | changed, usual | {name: value * 1.01 for name, value in changed.items()}]


DECAYS = {f"{problem}_unit_{schedule}_loss": 1.0 for problem in PROBLEMS for schedule in ("plateau", "cosine")}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"digits_unit_constant_loss": 1.0}, Verdict.SUPPORTED),  # a constant lr is not what the source advises
        ({"digits_unit_cosine_loss": 1.0}, Verdict.PARTLY),
        ({"digits_unit_cosine_spread": 100.0}, Verdict.PARTLY),
        ({"regression_unit_cosine_loss": 1e-14, "regression_raw_cosine_loss": 1e-30}, Verdict.SUPPORTED),  # the floor
        (DECAYS, Verdict.REFUTED),
        ({"unit_apart": 0.1}, Verdict.REFUTED),
        (dict.fromkeys(DECAYS, 0.02), Verdict.INCONCLUSIVE),  # twice raw's, and 2.02 times: across the bound
        ({"raw_apart": 1e-9}, Verdict.INCONCLUSIVE),
    ],
)
def test_invariance_then_convergence_then_the_steps_length(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(losses(**changed)).verdict is verdict


def test_the_reason_counts_decades_on_the_regression() -> None:
    changed = {"regression_unit_cosine_loss": 1e-4, "regression_raw_cosine_loss": 1e-9}
    assert "0.0, 0.0 and 5.0 decades above" in judge(losses(**changed)).reason


def test_the_regression_starts_at_zero_weights_and_has_no_noise() -> None:
    problem, model, _ = pose("regression", 0, "cpu")
    assert mean_loss(model, problem) == pytest.approx(problem.y.square().mean().item())
    solution = torch.linalg.lstsq(problem.x, problem.y).solution
    assert squared_error(problem.x @ solution, problem.y).max() < 1e-25


def test_unit_loss_and_the_frozen_reference_are_blind_to_the_scale_and_the_raw_loss_is_not() -> None:
    assert apart("unit", 0, "cpu", 1) < 1e-12
    assert apart("reference", 0, "cpu", 1) < 1e-12
    assert apart("raw", 0, "cpu", 1) > 0.5


def test_weights_that_are_no_numbers_are_as_far_apart_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_loss_schedule, "SCALES", (1.0, 1.0, float("nan")))
    assert apart("raw", 0, "cpu", 1) == NONE


def test_the_best_lr_is_that_with_the_lowest_final_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_loss_schedule, "LRS", {"regression": (1e-3, 1.0, 1e6)})  # slow, good, diverging
    found = best("regression", "raw", constant, 0, "cpu", 3)
    assert found["lr"] == 1.0
    assert 0 < found["loss"] < 0.1  # type: ignore[operator]
    assert len(found["curve"]) == 3  # type: ignore[arg-type]


def test_a_seed_poses_the_same_problem_again_and_another_seed_another() -> None:
    one, again, other = (flat_weights(pose("digits", seed, "cpu")[1]) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_the_figure_names_each_rule_under_each_schedule() -> None:
    *_, axis = plot(losses()).axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == [f"{rule}, {schedule}" for rule in RULES for schedule in SCHEDULES]

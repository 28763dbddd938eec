"""The example on digits: real tasks in their own units."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.scripts import example


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    with example("digits_tasks") as module:
        yield module


def test_a_predictor_of_the_mean_has_an_error_near_one(script: Any) -> None:
    _, targets = script.data()
    for task in ("ink", "centre"):
        target = targets[task]
        assert script.error(task, target.mean().expand(len(target), 1), target) == pytest.approx(1, abs=1e-3)
    classes = torch.zeros(len(targets["class"]), 10)
    assert script.error("class", classes, targets["class"]) == pytest.approx(1, abs=0.01)


def test_the_plain_sum_spends_nearly_all_on_the_ink_and_a_rule_spends_as_it_says(script: Any) -> None:
    tasks = script.PROBLEMS["two"]
    _, plain = script.train(tasks, script.METHODS["plain sum"](tasks), lr=1e-3, seed=0, epochs=1)
    norms = plain.report.norms
    assert norms["ink"] > 30 * norms["class"]
    _, balanced = script.train(tasks, script.METHODS["GradNorm(0)"](tasks), lr=1e-3, seed=0, epochs=1)
    spent = {task: balanced.report.weights[task] * balanced.report.norms[task] for task in tasks}
    assert spent["ink"] < 4 * spent["class"]  # equal for the averaged norms, up to this batch's noise
    assert balanced.report.step_factor == pytest.approx(1)


@pytest.mark.usefixtures("unchecked")
def test_it_prints_a_row_for_each_method(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["digits_tasks.py", "--seeds", "1", "--epochs", "1"])
    monkeypatch.setattr(script, "LRS", script.LRS[:2])
    script.main()
    printed = capsys.readouterr().out
    for method in script.METHODS:
        assert printed.count(f"| {method} |") == len(script.PROBLEMS)

"""Facts of a run in words."""

from math import nan

import pytest

from truestep.monitor.report import _facts
from truestep.monitor.report._record import Optimizer, Span, optimizers, spans
from truestep.monitor.report._table import Headline

NOW = 1_000_000.0
HEAD = Headline(3, (0.1,), (0.1,), 0.0226, 0.03, 0.99, 1.5, ("fc.weight", 0.003), ("conv.weight", 0.0229))


def span(began: float, ended: float, taken: int = 100) -> Span:
    return Span(taken, 0, taken - 1, began, ended, 0, taken - 1, taken)


@pytest.mark.parametrize(
    ("status", "last", "kind"),
    [
        ("finished", NOW - 9e5, "finished"),
        ("failed", NOW - 9e5, "failed"),
        ("running", NOW - 5, "running"),
        ("running", NOW - 3600, "stopped"),
    ],
)
def test_a_record_left_running_that_is_long_silent_is_called_stopped(status, last, kind) -> None:
    assert _facts.status({"status": status}, {1: span(last - 50, last)}, NOW).kind == kind


def test_silence_is_measured_by_the_runs_own_pace() -> None:
    slow = {1: span(NOW - 60_000, NOW - 600)}  # ten minutes a step
    assert _facts.status({"status": "running"}, slow, NOW).kind == "running"


def test_a_run_before_its_first_step_goes_on_until_it_is_long_silent() -> None:
    meta = {"status": "running", "created": str(NOW - 5)}
    assert _facts.status(meta, {}, NOW).kind == "running"
    assert _facts.status(meta, {}, NOW + 3600).kind == "stopped"


def test_the_verdict_is_one_sentence_with_numbers_and_units() -> None:
    assert _facts.verdict(HEAD, 1600, 0) == (
        "3 layers; asked lr 0.1; the median layer turned 22.6 mrad a step in the last quarter, "
        "0.99 of the predicted equilibrium (first quarter: 30 mrad)."
    )
    assert "3 largest of 90 layers" in _facts.verdict(HEAD, 1600, 90)


def test_the_verdict_says_only_what_is_known() -> None:
    bare = Headline(1, (), (), 0.5, nan, nan, nan, ("a", 0.5), ("a", 0.5))
    assert _facts.verdict(bare, 1, 0) == "1 layer; asked lr unknown; it turned 500 mrad a step in the last quarter."
    assert _facts.spread(bare) == ""
    assert _facts.verdict(None, 0, 0) == "No step has been recorded yet."
    assert _facts.verdict(None, 12, 0) == "12 steps taken, no angle recorded."


def test_a_changed_lr_is_told_with_both_values() -> None:
    head = Headline(2, (0.01, 0.001), (0.1,), 0.5, 0.5, nan, 2.0, ("a", 0.4), ("b", 0.6))
    assert "asked lr 0.01, 0.001 (first quarter: 0.1);" in _facts.verdict(head, 9, 0)
    assert _facts.spread(head) == (
        "Layers range from 400 mrad (a) to 600 mrad (b). "
        "Their median effective lr is 2 times that of the first quarter."
    )


def test_facts_name_optimizer_steps_cost_versions_seed_and_git(new_book) -> None:
    book = new_book(cost_seconds="0.05", wall_seconds="10", world_size="4")
    book.optimizer()
    for step in range(1200):
        book.step(step, skipped=int(step == 7))
    told = _facts.facts(book, optimizers(book), spans(book), _facts.Status("finished", "finished"))
    assert told == {
        "Optimizer SGD": "SGD, lr 0.1, momentum 0.9, weight_decay 0.005",
        "Steps of SGD": "1,200 taken, 0 recorded, 1 skipped",
        "Cost of watching": "0.5 % of the run's time (0.05 s of 10 s)",
        "Versions": "truestep 0.1.0, torch 2.13.0, python 3.11.7",
        "Device": "cpu, 4 ranks",
        "Seed": "7",
        "Git": "0123456789ab with changes",
        "Command": "demo.py --steps 1600",
    }


def test_facts_that_are_missing_or_torn_are_passed_over(new_book) -> None:
    book = new_book(cost_seconds="", wall_seconds="x", git="{", seed="", device="", command="a b")
    told = _facts.facts(book, {}, {}, _facts.Status("stopped", "long silent"))
    assert told["Cost of watching"] == "–"
    assert told["Command"] == "a b"
    assert told["Status"] == "long silent"
    assert not {"Seed", "Device"} & set(told)


def test_settings_of_groups_are_told_once_where_they_agree() -> None:
    groups = ({"lr": 0.1, "betas": [0.9, 0.95], "amsgrad": False}, {"lr": 0.01, "betas": [0.9, 0.95]})
    assert _facts.optimizer_words(Optimizer(1, "Adam", "Adam", groups)) == (
        "Adam, lr 0.1 | 0.01, betas [0.9, 0.95] (2 groups)"
    )


def test_only_what_differs_between_runs_is_listed(new_book) -> None:
    runs = [new_book(seed="1"), new_book(seed="2")]
    runs[0].optimizer(settings=[{"lr": 0.1, "weight_decay": 0.0, "foreach": True}])
    runs[1].optimizer(settings=[{"lr": 0.1, "weight_decay": 5e-3, "foreach": None}])
    told = _facts.differences([_facts.settings(run, optimizers(run)) for run in runs])
    assert told == {"SGD weight_decay": ["0", "0.005"], "seed": ["1", "2"]}

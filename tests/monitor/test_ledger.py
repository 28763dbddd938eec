"""Every loss stands at the step it belongs to, in every order that loops are written in."""

from collections.abc import Iterable
from math import isnan
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truestep.monitor._ledger import Ledger, weighted

A, B = 1, 2  # optimizers


def told(script: str, *, resumed: bool | None = None) -> dict[tuple[int, int], Any]:
    """Rows (optimizer, step) -> loss of a loop such as "2 A | 3 A": a number is a log call, a letter a step."""
    rows: dict[tuple[int, int], Any] = {}
    steps = {A: 0, B: 0}

    def emit(row: Any) -> None:
        assert rows.get(row[:2]) is None, "a step that has its loss was told again"
        rows[row[:2]] = row[3]

    ledger = Ledger(emit)
    ledger.log_first = resumed
    for word in script.replace("|", " ").split():
        if word in ("A", "B"):
            optimizer = A if word == "A" else B
            ledger.end(optimizer, steps[optimizer], 0.0, False)
            steps[optimizer] += 1
        else:
            ledger.log(float(word), None)
    ledger.settle()
    assert set(rows) == {(optimizer, step) for optimizer, count in steps.items() for step in range(count)}
    return rows


def losses(script: str, optimizer: int = A, *, resumed: bool | None = None) -> list[Any]:
    rows = told(script, resumed=resumed)
    return [rows[key] for key in sorted(rows) if key[0] == optimizer]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("1 A | 2 A | 3 A", [1, 2, 3]),
        ("A 1 | A 2 | A 3", [1, 2, 3]),
        ("A | A | A", [None, None, None]),
        ("1 3 A | 5 7 A", [2, 6]),  # two micro-batches
        ("A 1 3 | A 5 7", [2, 6]),
        ("1 A | A | 3 A", [1, None, 3]),  # logged at every second step
        ("A 1 | A | A 3", [1, None, 3]),
        ("1 A | 2", [1]),  # a step that a gradient scaler left out
        ("A 1 | 3 | A 5", [2, 5]),
    ],
)
def test_a_loss_stands_at_its_step(script: str, expected: list[Any]) -> None:
    assert losses(script) == expected


def test_the_first_call_of_all_decides_and_no_later_one() -> None:
    assert losses("A A 1 A 2") == [None, 1, 2]  # belongs to steps just finished
    assert losses("1 A A 2 A") == [1, None, 2]  # belongs to the step that comes


@pytest.mark.parametrize("script", ["1 A B | 2 A B", "A B 1 | A B 2"])
def test_two_optimizers_that_step_together_both_get_the_loss(script: str) -> None:
    assert losses(script, A) == losses(script, B) == [1, 2]


@pytest.mark.parametrize("script", ["1 A 10 B | 2 A 20 B", "A 1 B 10 | A 2 B 20"])
def test_the_two_players_of_a_gan_get_each_their_own(script: str) -> None:
    assert losses(script, A) == [1, 2]
    assert losses(script, B) == [10, 20]


@pytest.mark.parametrize("script", ["1 A 2 A 3 A 10 B | 4 A 5 A 6 A 20 B", "A 1 A 2 A 3 B 10 | A 4 A 5 A 6 B 20"])
def test_a_critic_that_steps_more_often_gets_each_its_own(script: str) -> None:
    assert losses(script, A) == [1, 2, 3, 4, 5, 6]
    assert losses(script, B) == [10, 20]


def test_a_resumed_run_goes_on_in_the_order_it_had() -> None:
    assert losses("A 1 | A 2", resumed=False) == [1, 2]
    assert losses("1 A | 2 A", resumed=True) == [1, 2]


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 500)), min_size=1, max_size=8))
def test_the_mean_is_that_of_the_whole_batch_however_it_was_cut(calls: list[tuple[float, int]]) -> None:
    mean, samples = weighted(list(calls))
    whole = sum(n for _, n in calls)
    assert samples == whole
    assert mean == pytest.approx(sum(loss * n / whole for loss, n in calls), rel=1e-9, abs=1e-9)


def test_without_samples_every_call_weighs_the_same_and_none_are_counted() -> None:
    assert weighted([(1.0, None), (3.0, None), (8.0, None)]) == (4.0, None)


def test_a_call_without_a_loss_only_counts_its_samples() -> None:
    assert weighted([(None, 30), (3.0, 10)]) == (3.0, 40)
    assert weighted([(None, 30), (None, 10)]) == (None, 40)


def scalars(values: Iterable[float], kind: str) -> list[Any]:
    return [torch.tensor(value, dtype=torch.float64) if kind == "tensor" else value for value in values]


@pytest.mark.parametrize("loss_kind", ["float", "tensor"])
@pytest.mark.parametrize("count_kind", ["float", "tensor"])
def test_a_mean_over_nothing_counts_for_nothing(loss_kind: str, count_kind: str) -> None:
    losses_ = scalars([float("nan"), 3.0], loss_kind)
    mean, samples = weighted(list(zip(losses_, scalars([0, 10], count_kind), strict=True)))
    assert (float(mean), float(samples)) == (3.0, 10.0)  # type: ignore[arg-type]
    nothing, none = weighted(list(zip(losses_, scalars([0, 0], count_kind), strict=True)))
    assert isnan(float(nothing))  # type: ignore[arg-type]
    assert float(none) == 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize(("script", "shown"), [("A", None), ("A 2", 2.0)])
def test_a_checkpoint_shows_the_open_step_and_a_later_loss_replaces_it(script: str, shown: float | None) -> None:
    rows: list[Any] = []
    ledger = Ledger(rows.append)
    ledger.log_first = False
    ledger.end(A, 0, 0.5, False)
    if script == "A 2":
        ledger.log(2.0, None)
    ledger.show()
    assert rows == [(A, 0, 0.5, shown, None, False)]
    ledger.log(4.0, None)
    ledger.end(A, 1, 1.5, False)
    assert rows[1:] == [(A, 0, 0.5, 4.0 if shown is None else 3.0, None, False)]
    ledger.settle()
    ledger.settle()
    assert rows[2:] == [(A, 1, 1.5, None, None, False)]

"""A report is a snapshot of plain numbers that says what each of them is."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, asdict, fields

import pytest

from truestep.multitask.balancing._report import Report


def report() -> Report:
    rows = [{"a": float(i), "b": 1.0} for i in range(4)]
    return Report(*rows, step_factor=1.0, trunk_factor=0.5, gram=None, updates=3)


def test_its_rows_are_weights_norms_ratios_and_losses_by_task() -> None:
    made = asdict(report())
    assert [made[name]["a"] for name in ("weights", "norms", "ratios", "losses")] == [0.0, 1.0, 2.0, 3.0]


def test_it_cannot_be_written_to() -> None:
    with pytest.raises(FrozenInstanceError):
        report().updates = 4


def test_the_documentation_says_what_each_field_is() -> None:
    told = inspect.getdoc(Report).partition("Args:")[2]
    assert [field.name for field in fields(Report) if f"\n    {field.name}: " not in told] == []

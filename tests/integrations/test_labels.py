"""Counts of targets and rows, by hand."""

import inspect
from typing import Any

import pytest
import torch

from truestep.integrations._labels import kept_targets, known, num_rows, num_targets, without_first

LABELS = torch.tensor([[1, 2, -100], [-100, -100, -100], [3, -100, -100]])


def test_targets_and_rows_are_counted_after_the_shift() -> None:
    counts = {
        (per, s): int(num_targets({"labels": LABELS}, per, s)) for per in ("token", "item") for s in (False, True)
    }
    assert counts == {("token", False): 3, ("token", True): 1, ("item", False): 2, ("item", True): 1}


def test_labels_that_are_shifted_already_are_counted_as_they_are() -> None:
    assert int(num_targets({"labels": LABELS, "shift_labels": LABELS}, "token", shift=True)) == 3


def test_classes_are_not_shifted() -> None:
    assert kept_targets(torch.tensor([0, -100, 2]), shift=True).tolist() == [True, False, True]


def test_without_labels_rows_are_counted() -> None:
    assert int(num_targets({"return_loss": True, "pixels": torch.zeros(5, 2)}, "token", shift=False)) == 5
    with pytest.raises(ValueError, match="mappings of tensors; found one with return_loss"):
        num_rows({"return_loss": True})


def test_the_first_label_is_ignored_in_a_copy() -> None:
    assert without_first(LABELS)[:, 0].tolist() == [-100] * 3
    assert LABELS[0, 0] == 1


def test_an_unknown_objective_is_refused() -> None:
    word: Any = "token"
    assert known(word) == "token"
    with pytest.raises(ValueError, match="found 'weight'"):
        inspect.unwrap(known)("weight")

"""The scalar that goes backward is the sum of the weighted losses, of whatever tasks are there."""

from __future__ import annotations

import pytest
import torch

from truestep.multitask.balancing._split import Split
from truestep.multitask.balancing._weighted_sum import WeightedSum

WEIGHTS = torch.tensor([0.5, 2.0, 1e-6], dtype=torch.float64)


@pytest.mark.parametrize("names", ["abc", "cab", "ca", "b"])
def test_value_and_gradient_are_those_of_the_sum_in_any_order(names: str) -> None:
    losses = {name: torch.tensor(float(ord(name)), dtype=torch.float64, requires_grad=True) for name in names}
    total = WeightedSum(("a", "b", "c"))(losses, WEIGHTS, None)
    weights = {name: float(WEIGHTS["abc".index(name)]) for name in names}
    assert total.item() == pytest.approx(sum(w * ord(name) for name, w in weights.items()), rel=1e-15)
    total.backward()
    assert {name: loss.grad.item() for name, loss in losses.items() if loss.grad is not None} == weights


def test_the_widest_format_is_that_of_the_sum() -> None:
    losses = {"a": torch.tensor(1.0), "b": torch.tensor(1.0, dtype=torch.float64)}
    add = WeightedSum(("a", "b"))
    assert add(losses, WEIGHTS[:2], None).dtype == torch.float64
    assert add({"a": losses["a"]}, WEIGHTS[:2], None).dtype == torch.float32


def test_weights_set_later_do_not_reach_a_sum_that_was_made() -> None:
    weights, loss = WEIGHTS.clone(), torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    total = WeightedSum(("a", "b", "c"))({"a": loss, "b": loss, "c": loss}, weights, None)
    weights.zero_()
    total.backward()
    assert loss.grad == WEIGHTS.sum()


def test_of_no_task_it_is_a_zero_that_reaches_the_trunk() -> None:
    trunk = torch.full((4, 3), torch.inf, requires_grad=True)
    total = WeightedSum(("a",))({}, WEIGHTS[:1], Split(trunk * 1, ("a",), apart=True))
    total.backward()
    assert total == 0
    assert trunk.grad is not None
    assert not trunk.grad.any()


def test_without_losses_and_features_it_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="`losses` is empty"):
        WeightedSum(("a",))({}, WEIGHTS[:1], None)

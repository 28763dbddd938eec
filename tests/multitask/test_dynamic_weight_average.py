"""Dynamic weight average is TorchJD's step for step, and does the sensible thing where tasks come and go."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.multitask.seen import on_meta, seen
from torch import Tensor
from torchjd.scalarization import DWA

from truestep.multitask._dynamic_weight_average import DynamicWeightAverage, descent_weights


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def started(temperature: float = 2.0, **settings: Any) -> DynamicWeightAverage:
    rule = DynamicWeightAverage(temperature, **settings)
    rule.start(("a", "b", "c"))
    return rule


@pytest.mark.parametrize("temperature", [0.1, 2.0, 50])
def test_values_and_weights_are_those_of_torchjd_over_five_epochs(temperature: float) -> None:
    rule, by_itself, theirs = (
        DynamicWeightAverage(temperature),
        DynamicWeightAverage(temperature, period=4),
        DWA(temperature),
    )
    for _epoch in range(5):
        for _ in range(4):
            losses = torch.rand(3, dtype=torch.float64, requires_grad=True)
            expected = theirs(losses * row(1e-6, 1, 1e6))
            (gradient,) = torch.autograd.grad(expected, losses)
            for other in (rule, by_itself):
                found = other(losses * row(1e-6, 1, 1e6))
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
                torch.testing.assert_close(torch.autograd.grad(found, losses)[0], gradient, rtol=1e-12, atol=0)
        theirs.step()
        rule.end_epoch()


def test_weights_are_those_worked_out_by_hand() -> None:
    # ratios 1/2 and 1 at temperature 1/2: 2 e / (e + e^2) and 2 e^2 / (e + e^2)
    found = descent_weights(row(1, 3), row(2, 3), temperature=0.5)
    torch.testing.assert_close(found, row(0.5378828427399903, 1.4621171572600097), rtol=1e-15, atol=0)


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3))
def test_the_unit_of_a_loss_does_not_count(powers: list[float]) -> None:
    scale, newer, older = 10.0 ** row(*powers), row(1, 2, 3), row(2, 2, 4)
    mine, other = descent_weights(newer * scale, older * scale, 2), descent_weights(newer, older, 2)
    torch.testing.assert_close(mine, other, rtol=1e-14, atol=0)
    torch.testing.assert_close(mine.sum(), torch.tensor(3.0, dtype=torch.float64), rtol=1e-14, atol=0)


def test_weights_are_equal_for_two_epochs_and_then_not() -> None:
    rule = started(period=2)
    epochs = [[1.0, 1.0, 1.0]] * 2 + [[0.1, 0.5, 1.0]] * 2 + [[0.1, 0.5, 1.0]] * 2
    found = [rule.weigh(seen(losses)) for losses in epochs]
    assert all(weights.tolist() == [1, 1, 1] for weights in found[:4])
    assert found[4].equal(found[5])
    torch.testing.assert_close(found[4], descent_weights(row(0.1, 0.5, 1), row(1, 1, 1), 2), rtol=1e-14, atol=0)


def test_an_average_is_over_the_batches_that_had_the_task() -> None:
    rule = started()
    for losses in ([1.0, 8.0, 1.0], [3.0, torch.nan, 1.0], [0.2, 6.0, 1.0], [0.6, 2.0, torch.nan]):
        present = [x == x for x in losses]
        rule.weigh(seen(losses, active=present))
        if len([x for x in present if not x]) == 1:
            rule.end_epoch()
    expected = descent_weights(row(0.4, 4.0, 1.0), row(2.0, 8.0, 1.0), 2)
    torch.testing.assert_close(rule.weigh(seen([1.0, 1.0, 1.0])), expected, rtol=1e-14, atol=0)


def test_a_task_that_lacks_an_average_counts_as_one_at_rest() -> None:
    rule = started()
    rule.weigh(seen([4.0, torch.nan, 1.0], active=[True, False, True]))
    rule.end_epoch()
    rule.weigh(seen([1.0, 9.0, 3.0]))
    rule.end_epoch()
    weights = rule.weigh(seen([1.0, 1.0, 1.0]))
    torch.testing.assert_close(weights, descent_weights(row(1, 1, 3), row(4, 1, 1), 2), rtol=1e-14, atol=0)


def test_those_present_share_their_number_and_no_nan_comes_in() -> None:
    rule = started(period=1)
    rule.weigh(seen([1.0, 1.0, 1.0]))
    rule.weigh(seen([0.2, 0.5, 0.9]))
    weights = rule.weigh(seen([1.0, torch.nan, 1.0], active=[True, False, True]))
    torch.testing.assert_close(weights[[0, 2]], descent_weights(row(0.2, 0.9), row(1, 1), 2), rtol=1e-14, atol=0)
    assert all(bool(value.isfinite().all()) for value in rule.state_dict().values())


def test_an_average_of_zero_is_none() -> None:
    assert descent_weights(row(1, 1), row(0, 1), 2).tolist() == [1, 1]


def test_an_epoch_without_losses_is_none() -> None:
    early = DynamicWeightAverage()
    early.end_epoch()  # has no tasks yet
    rule, other = started(), started()
    for epoch in ([1.0, 1.0, 1.0], [0.1, 0.5, 1.0]):
        for one in (rule, other):
            one.weigh(seen(epoch))
            one.end_epoch()
    rule.end_epoch()
    readings = seen([1.0, 1.0, 1.0])
    assert rule.weigh(readings).equal(other.weigh(readings))


def test_an_epoch_closed_by_hand_starts_the_period_again() -> None:
    rule = started(period=2)
    rule.weigh(seen([1.0, 1.0, 1.0]))
    rule.end_epoch()
    rule.weigh(seen([4.0, 1.0, 1.0]))
    rule.weigh(seen([8.0, 1.0, 1.0]))
    expected = descent_weights(row(6, 1, 1), row(1, 1, 1), 2)
    torch.testing.assert_close(rule.weigh(seen([1.0, 1.0, 1.0])), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("period", [None, 3])
def test_a_run_goes_on_bit_exactly_from_its_state(period: int | None) -> None:
    rule = started(period=period)
    for i in range(7):
        rule.weigh(seen(torch.rand(3) + 0.1))
        if i % 3 == 2:
            rule.end_epoch()
    copies = [started(period=period), copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))]
    copies[0].load_state_dict(rule.state_dict())
    for _ in range(7):
        readings = seen(torch.rand(3) + 0.1)
        expected = rule.weigh(readings)
        assert all(other.weigh(readings).equal(expected) for other in copies)
    assert expected.tolist() != [1, 1, 1]


@pytest.mark.parametrize("period", [None, 1])
def test_nothing_is_read_on_the_host(period: int | None) -> None:
    rule = started(period=period).to("meta")
    assert rule.weigh(on_meta(seen([1.0, 2.0, 3.0]))).is_meta
    rule.end_epoch()


@pytest.mark.parametrize("temperature", [0, -1.0, torch.inf, torch.nan])
def test_a_temperature_that_orders_tasks_otherwise_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="`temperature` must be positive and finite"):
        DynamicWeightAverage(temperature)


@pytest.mark.parametrize("period", [0, -2, True])
def test_a_period_without_updates_is_refused(period: int) -> None:
    with pytest.raises(ValueError, match="`period` must be a positive int"):
        DynamicWeightAverage(period=period)

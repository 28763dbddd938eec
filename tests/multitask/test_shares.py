"""Each task's weighted gradient has the share that was asked for, in any unit of its loss."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.multitask.seen import on_meta, seen
from torch import Tensor

from truestep.multitask._gradnorm import GradNorm
from truestep.multitask._shares import Shares

TASKS = ("a", "b", "c")
SHARES = {"b": 3.0, "a": 1.0, "c": 4}  # not in the tasks' order


def started(smoothing: float = 0.9) -> Shares:
    rule = Shares(SHARES, smoothing=smoothing)
    rule.start(TASKS)
    return rule


def shares_of(weights: Tensor, norms: Tensor) -> Tensor:
    return weights * norms / (weights * norms).sum()


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3))
def test_weighted_norms_have_the_shares_asked_for_at_any_scale(powers: list[float]) -> None:
    norms = 10.0 ** torch.tensor(powers, dtype=torch.float64)
    found = shares_of(started(smoothing=0).weigh(seen(norms=norms)), norms)
    torch.testing.assert_close(found, torch.tensor([1, 3, 4.0], dtype=torch.float64) / 8, rtol=1e-12, atol=0)


@given(st.floats(-10, 10))
def test_the_unit_of_one_loss_changes_no_weighted_norm(power: float) -> None:
    unit = torch.tensor([1.0, 10.0**power, 1.0], dtype=torch.float64)
    rule, other = started(), started()
    for _ in range(5):
        norms = torch.rand(3, dtype=torch.float64) + 0.1
        one, two = rule.weigh(seen(norms=norms)) * norms, other.weigh(seen(norms=norms * unit)) * norms * unit
        torch.testing.assert_close(one, two, rtol=1e-12, atol=0)


def test_the_average_is_of_logarithms_and_starts_with_the_first_norm() -> None:
    rule = started(smoothing=0.75)
    rule.weigh(seen(norms=[1.0, 16.0, 1.0]))
    weights = rule.weigh(seen(norms=[16.0, 1.0, 1.0]))  # 16**.25 and 16**.75; of the norms themselves: 4.75 and 12.25
    torch.testing.assert_close(weights, torch.tensor([1 / 2, 3 / 8, 4], dtype=torch.float64), rtol=1e-14, atol=0)


def test_equal_shares_are_gradnorm_with_alpha_zero() -> None:
    mine, other = Shares(dict.fromkeys(TASKS, 2.0)), GradNorm(0)
    mine.start(TASKS)
    other.start(TASKS)
    for _ in range(5):
        norms = torch.randn(3, dtype=torch.float64).exp()
        one, two = mine.weigh(seen(norms=norms)), other.weigh(seen(norms=norms))
        torch.testing.assert_close(one / one.sum(), two / two.sum(), rtol=1e-13, atol=0)


def test_an_absent_task_leaves_the_others_their_proportion_and_finds_its_average_again() -> None:
    rule, alone = started(), started()
    norms = [2.0, 5.0, 7.0]
    rule.weigh(seen(norms=norms))
    alone.weigh(seen(norms=norms))
    weights = rule.weigh(seen(norms=[3.0, torch.nan, 9.0], active=[True, False, True]))
    assert weights[[0, 2]].equal(alone.weigh(seen(norms=[3.0, 5.0, 9.0]))[[0, 2]])
    assert rule.state_dict()["_log_norms"][1] == torch.tensor(5.0, dtype=torch.float64).log()


def test_a_run_goes_on_bit_exactly_from_its_state() -> None:
    rule = started()
    for _ in range(3):
        rule.weigh(seen(norms=torch.rand(3) + 0.1))
    copies = [started(), copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))]
    copies[0].load_state_dict(rule.state_dict())
    for _ in range(3):
        readings = seen(norms=torch.rand(3) + 0.1)
        expected = rule.weigh(readings)
        assert all(other.weigh(readings).equal(expected) for other in copies)


def test_nothing_is_read_on_the_host() -> None:
    assert started().to("meta").weigh(on_meta(seen(norms=[1.0, 2.0, 3.0]))).is_meta


@pytest.mark.parametrize("share", [0.0, -1.0, torch.inf, torch.nan])
def test_a_share_that_is_no_positive_number_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"`shares` must be positive and finite, one a task; found \{'b': "):
        Shares({"a": 1.0, "b": share})


def test_no_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="found none"):
        Shares({})


@pytest.mark.parametrize("tasks", [("a", "b"), ("a", "b", "c", "d"), ("a", "b", "x")])
def test_every_task_needs_a_share_and_every_share_a_task(tasks: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"`shares` must name each task once: a, b.*; found b, a, c"):
        Shares(SHARES).start(tasks)


def test_smoothing_is_checked() -> None:
    with pytest.raises(ValueError, match="`smoothing`"):
        Shares(SHARES, smoothing=1.0)


def test_losses_of_any_sign_are_taken() -> None:
    assert not started().positive

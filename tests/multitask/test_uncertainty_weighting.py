"""Uncertainty weighting is TorchJD's step for step, its optimum is 1/(2L), and what limits it is where we say."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.multitask.seen import on_meta, seen
from torch import Tensor
from torchjd.scalarization import UW

from truestep.multitask._uncertainty_weighting import UncertaintyWeighting, log_variances

MIXED: Any = {"a": "regression", "b": "classification", "c": "regression"}
powers = st.lists(st.floats(-10, 10), min_size=3, max_size=3)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def started(kinds: Any = None, **settings: Any) -> UncertaintyWeighting:
    rule = UncertaintyWeighting(kinds, **settings)
    rule.start(("a", "b", "c"))
    return rule


def descent(curvature: float, remains: float, lr: float) -> float:
    """Where gradient descent ends on c + h x^2 / 2, weighted at each step by the optimal s; from 1e-3."""
    rule, x = UncertaintyWeighting(solve="direct", smoothing=0), torch.tensor([1e-3], dtype=torch.float64)
    for _ in range(300):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(rule(remains + curvature * x**2 / 2), x)
        x = (x - lr * gradient).detach()
    return abs(float(x))


@pytest.mark.parametrize("lr", [1e-3, 0.1])
def test_value_weights_and_variances_are_those_of_torchjd_in_adam(lr: float) -> None:
    rule, theirs = UncertaintyWeighting(lr=lr), UW(3).double()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=lr)
    for step in range(30):
        losses = (torch.rand(3, dtype=torch.float64) * row(1e-4, 1, 1e4)).requires_grad_()
        mine, other = rule(losses), theirs(losses)
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
        expected = torch.autograd.grad(other, [losses, theirs.log_var])
        torch.testing.assert_close(torch.autograd.grad(mine, losses)[0], expected[0], rtol=1e-12, atol=0)
        theirs.log_var.grad = expected[1]
        optimizer.step()
        torch.testing.assert_close(rule.log_variance, theirs.log_var.data, rtol=1e-12, atol=1e-12 * (step + 1))


def test_a_classification_moves_by_the_gradient_of_its_own_likelihood() -> None:
    rule, s = started(MIXED, lr=0.1), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer, scale = torch.optim.Adam([s], lr=0.1), row(0.5, 1.0, 0.5)
    for _ in range(20):
        losses = torch.rand(3, dtype=torch.float64) * 5
        weights = rule.weigh(seen(losses))
        torch.testing.assert_close(weights, scale * torch.exp(-s.detach()), rtol=1e-12, atol=0)
        (s.grad,) = torch.autograd.grad((scale * torch.exp(-s) * losses + s / 2).sum(), s)
        optimizer.step()


@given(powers)
def test_direct_weights_are_one_over_twice_the_loss_at_any_scale(powers: list[float]) -> None:
    losses = 10.0 ** row(*powers)
    weights = started(MIXED, solve="direct", smoothing=0).weigh(seen(losses))
    torch.testing.assert_close(weights, 1 / (2 * losses), rtol=1e-13, atol=0)


@given(powers)
def test_at_the_optimal_variances_the_method_s_own_loss_is_flat(powers: list[float]) -> None:
    losses, classification = 10.0 ** row(*powers), torch.tensor([False, True, False])
    s = log_variances(losses, classification).requires_grad_()
    scale = torch.where(classification, 1.0, 0.5)
    (gradient,) = torch.autograd.grad((scale * torch.exp(-s) * losses + s / 2).sum(), s)
    assert float(gradient.abs().max()) < 1e-14


def test_at_the_optimum_a_task_adds_half_of_one_and_its_log_variance_which_is_negative_for_small_losses() -> None:
    rule = UncertaintyWeighting(solve="direct", smoothing=0)
    losses = row(1e-3, 0.1)
    rule(losses)
    total = rule(losses)
    torch.testing.assert_close(total, (0.5 * (1 + losses.log())).sum(), rtol=1e-14, atol=0)
    assert total < 0


def test_penalty_is_half_the_sum_of_the_log_variances_and_nothing_before_there_are_tasks() -> None:
    assert UncertaintyWeighting().penalty() == 0
    rule = started(solve="direct", smoothing=0)
    rule.weigh(seen([1.0, math.e, math.e**4]))
    torch.testing.assert_close(rule.penalty(), torch.tensor(2.5, dtype=torch.float64), rtol=1e-14, atol=0)


def test_direct_averages_the_loss_and_not_its_logarithm() -> None:
    rule = started(solve="direct", smoothing=0.75)
    rule.weigh(seen([1.0, 1.0, 1.0]))
    torch.testing.assert_close(1 / rule.weigh(seen([5.0, 1.0, 9.0])), row(4.0, 2.0, 6.0), rtol=1e-14, atol=0)


def test_a_sum_over_n_terms_is_weighted_by_one_nth_of_a_mean() -> None:
    mean, total = (started(solve="direct").weigh(seen(row(2, 3, 4) * n)) for n in (1, 128))
    torch.testing.assert_close(total, mean / 128, rtol=1e-14, atol=0)


def test_a_gap_of_1e4_takes_more_than_its_logarithm_over_lr_steps() -> None:
    rule, lr = started(lr=0.05), 0.05
    least = math.floor(math.log(1e4) / lr)
    for _ in range(least):
        rule.weigh(seen([1e4, 1.0, 1.0]))
    assert rule.log_variance[0] < math.log(1e4) - 1  # not there yet
    assert rule.log_variance[0] > 1  # but on the way


def test_weights_settle_at_one_over_twice_what_remains() -> None:
    rule = started(MIXED, lr=0.3)
    for _ in range(400):
        weights = rule.weigh(seen([0.1, 0.3, 2.0]))
    torch.testing.assert_close(weights, 1 / (2 * row(0.1, 0.3, 2.0)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("remains", [1e-4, 1.0, 1e4])
def test_descent_is_stable_below_four_times_what_remains_and_not_above(remains: float) -> None:
    assert descent(curvature=2.0, remains=remains, lr=0.95 * 4 * remains / 2.0) < 1e-9
    assert descent(curvature=2.0, remains=remains, lr=1.05 * 4 * remains / 2.0) > 1e-3 * math.sqrt(remains)


@pytest.mark.parametrize("solve", ["gradient", "direct"])
def test_an_absent_task_keeps_its_state_and_leaves_the_others_alone(solve: Any) -> None:
    rule, full = started(solve=solve), started(solve=solve)
    for other in (rule, full):
        other.weigh(seen([3.0, 5.0, 7.0]))
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    mine = rule.weigh(seen([2.0, torch.nan, 9.0], active=[True, False, True]))
    assert mine[[0, 2]].equal(full.weigh(seen([2.0, 4.0, 9.0]))[[0, 2]])
    assert all(rule.state_dict()[name][1] == value[1] for name, value in before.items())
    assert all(rule.state_dict()[name][[0, 2]].equal(value[[0, 2]]) for name, value in full.state_dict().items())


def test_a_task_that_comes_late_takes_first_steps_of_adam_then() -> None:
    rule, fresh = started(), started()
    for _ in range(10):
        rule.weigh(seen([1.0, torch.nan, 1.0], active=[True, False, True]))
    for other in (rule, fresh):
        other.weigh(seen([1.0, 50.0, 1.0]))
    assert rule.log_variance[1] == fresh.log_variance[1] != 0


def test_a_loss_of_zero_tells_direct_nothing() -> None:
    rule = started(solve="direct")
    assert rule.weigh(seen([0.0, 1.0, 4.0])).tolist() == [0.5, 0.5, 0.125]  # s stays at its start, 0
    rule.weigh(seen([2.0, 1.0, 4.0]))
    assert rule.weigh(seen([0.0, 1.0, 4.0])).tolist() == [0.25, 0.5, 0.125]


@pytest.mark.parametrize("solve", ["gradient", "direct"])
def test_a_run_goes_on_bit_exactly_from_its_state(solve: Any) -> None:
    rule = started(MIXED, solve=solve)
    for _ in range(3):
        rule.weigh(seen(torch.rand(3) + 0.1))
    copies = [started(MIXED, solve=solve), copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))]
    copies[0].load_state_dict(rule.state_dict())
    for _ in range(3):
        readings = seen(torch.rand(3) + 0.1)
        expected = rule.weigh(readings)
        assert all(other.weigh(readings).equal(expected) for other in copies)
        assert all(other.penalty().equal(rule.penalty()) for other in copies)


@pytest.mark.parametrize("solve", ["gradient", "direct"])
def test_nothing_is_read_on_the_host(solve: Any) -> None:
    assert started(MIXED, solve=solve).to("meta").weigh(on_meta(seen([1.0, 2.0, 3.0]))).is_meta


def test_s_is_no_parameter_and_the_weights_do_not_change_with_it() -> None:
    rule = started()
    weights = rule.weigh(seen([3.0, 2.0, 9.0]))
    assert list(rule.parameters()) == []
    assert weights.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": {"a": "ranking"}}, r"`kinds` must be regression or classification; found \{'a': 'ranking'\}"),
        ({"solve": "newton"}, "`solve` must be one of gradient, direct; found 'newton'"),
        ({"lr": 0}, "`lr` must be positive and finite; found 0"),
        ({"solve": "direct", "smoothing": 1}, "`smoothing` must be at least 0 and below 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_out_of_range_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UncertaintyWeighting(**settings)


def test_every_task_needs_a_kind() -> None:
    with pytest.raises(ValueError, match="`kinds` must name each task once: a, b, c; found a, b"):
        started({"a": "regression", "b": "classification"})


def test_a_setting_that_is_not_used_is_said() -> None:
    with pytest.warns(RuntimeWarning, match="`lr`=0.5 is not used"):
        UncertaintyWeighting(solve="direct", lr=0.5)
    with pytest.warns(RuntimeWarning, match="`smoothing`=0.5 is not used"):
        UncertaintyWeighting(smoothing=0.5)

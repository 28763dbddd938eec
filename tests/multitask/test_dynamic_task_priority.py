"""Priorities are the paper's, a task without news keeps its own, and units count only where asked for."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.multitask.seen import on_meta, seen
from torch import Tensor

from truestep.multitask._dynamic_task_priority import DynamicTaskPriority, priority
from truestep.multitask.balancing._normalize import normalized

GAMMAS = (0, 0.5, 1, 2, 5)
fractions = st.lists(st.floats(0, 1), min_size=3, max_size=3)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def started(gamma: float = 1.0, **settings: Any) -> DynamicTaskPriority:
    rule = DynamicTaskPriority(gamma, **settings)
    rule.start(("a", "b", "c"))
    return rule


@pytest.mark.parametrize(
    ("gamma", "expected"), [(0, (2.30, 0.693, 0.105)), (1, (2.07, 0.347, 0.0105)), (2, (1.87, 0.173, 0.00105))]
)
def test_priorities_are_those_worked_out_by_hand(gamma: float, expected: tuple[float, ...]) -> None:
    torch.testing.assert_close(priority(row(0.1, 0.5, 0.9), gamma), row(*expected), rtol=5e-3, atol=0)


@pytest.mark.parametrize(("gamma", "expected"), [(0, 21.85), (1, 196.7), (2, 1770)])
def test_a_kpi_of_a_tenth_outweighs_one_of_nine_tenths(gamma: float, expected: float) -> None:
    low, high = priority(row(0.1, 0.9), gamma)
    assert float(low / high) == pytest.approx(expected, rel=1e-3)


@given(fractions, st.sampled_from(GAMMAS))
def test_priorities_are_positive_finite_and_fall_with_the_kpi(kpis: list[float], gamma: float) -> None:
    found = priority(row(*sorted(kpis)), gamma)
    assert bool((found > 0).all())
    assert bool(found.isfinite().all())
    assert bool((found.diff() <= 0).all())


def test_a_kpi_of_zero_is_not_infinite_and_one_of_one_not_dead() -> None:
    assert priority(row(0.0, 1.0, 0.001, 0.999), 1).tolist()[:2] == priority(row(0.001, 0.999), 1).tolist()
    assert priority(row(-3.0, 7.0), 0).equal(priority(row(0.0, 1.0), 0))


def test_kpis_are_averaged_from_their_first_value_on() -> None:
    rule = started(smoothing=0.75)
    rule.weigh(seen(kpis=[0.2, 0.4, 0.8]))
    weights = rule.weigh(seen(kpis=[0.6, torch.nan, 0.4]))
    torch.testing.assert_close(weights, priority(row(0.3, 0.4, 0.7), 1.0), rtol=1e-14, atol=0)


def test_without_news_the_priorities_stay() -> None:
    rule = started()
    first = rule.weigh(seen(kpis=[0.2, 0.4, 0.8]))
    assert rule.weigh(seen([9.0, 8.0, 7.0])).equal(first)
    assert rule.weigh(seen(kpis=[torch.nan] * 3)).equal(first)


def test_a_task_without_a_kpi_counts_with_the_mean_of_those_that_have_one() -> None:
    rule = started()
    assert rule.weigh(seen([1.0, 2.0, 3.0])).tolist() == [1, 1, 1]
    a, b = priority(row(0.1, 0.9), 1.0)
    torch.testing.assert_close(rule.weigh(seen(kpis=[0.1, torch.nan, 0.9])), torch.stack([a, (a + b) / 2, b]))


def test_news_of_a_task_that_the_batch_lacks_count() -> None:
    rule = started(smoothing=0)
    rule.weigh(seen([1.0, torch.nan, 1.0], kpis=[0.5, 0.1, 0.5], active=[True, False, True]))
    torch.testing.assert_close(rule.weigh(seen([1.0, 1.0, 1.0])), priority(row(0.5, 0.1, 0.5), 1.0))


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_with_a_unit_of_loss_or_norm_a_factor_on_one_loss_cancels(loss: float, norm: float) -> None:
    scale = 10.0 ** row(0, loss, norm)
    kpis, losses = row(0.2, 0.5, 0.7), row(1, 2, 3)
    for unit, readings in (("loss", seen(losses * scale, kpis=kpis)), ("norm", seen(norms=losses * scale, kpis=kpis))):
        found = started(unit=unit).weigh(readings) * losses * scale
        torch.testing.assert_close(found, priority(kpis, 1.0), rtol=1e-13, atol=0)


def test_without_a_unit_the_losses_units_do_not_count_at_all() -> None:
    kpis = [0.5, 0.5, 0.5]
    assert len(set(started().weigh(seen([1e-6, 1.0, 1e6], kpis=kpis)).tolist())) == 1


def test_a_task_of_unknown_unit_takes_the_mean_factor_of_the_others() -> None:
    rule = started(unit="loss")
    assert rule.weigh(seen([0.0, 0.5, 0.25])).tolist() == [3, 2, 4]
    for absent in (torch.nan, 0.1):
        found = rule.weigh(seen([absent, 0.5, 0.0], active=[False, True, True]))
        assert found[1:].tolist() == [2, 2]


@pytest.mark.parametrize(("unit", "reads", "positive"), [("none", "losses", False), ("loss", "losses", True)])
def test_it_reads_what_its_unit_needs(unit: Any, reads: str, positive: bool) -> None:
    rule = started(unit=unit)
    assert (rule.reads, rule.positive) == (reads, positive)


def test_it_reads_norms_for_their_unit_and_no_other_rule_does_so_for_it() -> None:
    assert (started(unit="norm").reads, started(unit="norm").positive) == ("norms", False)
    assert started().reads == "losses"


def test_the_sum_of_weights_falls_as_tasks_get_better_and_a_budget_takes_that_out() -> None:
    norms, spent = row(1, 2, 3), {}
    for kpi in (0.1, 0.9):
        readings = seen(norms=norms, kpis=[kpi] * 3)
        raw = started().weigh(readings)
        spent[kpi] = [float((normalized(raw, readings, how) * norms).sum()) for how in ("none", "budget")]
    assert spent[0.1][0] / spent[0.9][0] == pytest.approx(196.7, rel=1e-3)
    assert spent[0.1][1] == pytest.approx(6, rel=1e-15)
    assert spent[0.9][1] == pytest.approx(6, rel=1e-15)


def test_a_run_goes_on_bit_exactly_from_its_state() -> None:
    rule = started(unit="loss")
    rule.weigh(seen([1.0, 2.0, 3.0], kpis=[0.3, 0.2, torch.nan]))
    copies = [started(unit="loss"), copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))]
    copies[0].load_state_dict(rule.state_dict())
    for _ in range(3):
        readings = seen(torch.rand(3) + 0.1, kpis=torch.rand(3))
        expected = rule.weigh(readings)
        assert all(other.weigh(readings).equal(expected) for other in copies)


@pytest.mark.parametrize("unit", ["none", "loss", "norm"])
def test_nothing_is_read_on_the_host(unit: Any) -> None:
    readings = seen([1.0, 2.0, 3.0], norms=[1.0, 2.0, 3.0], kpis=[0.1, 0.2, 0.3])
    assert started(unit=unit).to("meta").weigh(on_meta(readings)).is_meta


@pytest.mark.parametrize("gamma", [-1, torch.nan, torch.inf])
def test_a_gamma_that_prefers_the_good_tasks_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="`gamma` must be finite and at least 0"):
        DynamicTaskPriority(gamma)


@pytest.mark.usefixtures("unchecked")
def test_a_unit_that_is_none_is_refused() -> None:
    unit: Any = "metre"
    with pytest.raises(ValueError, match="`unit` must be one of none, loss, norm; found 'metre'"):
        DynamicTaskPriority(unit=unit)


def test_smoothing_is_checked() -> None:
    with pytest.raises(ValueError, match="`smoothing`"):
        DynamicTaskPriority(smoothing=1.0)

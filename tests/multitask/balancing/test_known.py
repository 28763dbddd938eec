"""What is known of the tasks: the latest number of each, and the mean of their shares."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.multitask.seen import on_meta, seen
from torch import Tensor

from truestep.core import task_gram
from truestep.multitask.balancing._known import Known

TASKS = ("a", "b", "c")


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


ONE = vector(1, 1, 1)


def test_before_any_update_nothing_is_known_but_the_weights() -> None:
    report = Known(TASKS).report(ONE)
    assert report.weights == dict.fromkeys(TASKS, 1.0)
    for row in (report.norms, report.ratios, report.losses):
        assert list(row) == [*TASKS]
        assert all(math.isnan(x) for x in row.values())
    assert math.isnan(report.step_factor)
    assert math.isnan(report.trunk_factor)
    assert report.gram is None
    assert report.updates == 0


def test_the_hand_worked_report_of_one_update() -> None:
    known, weights = Known(TASKS), vector(2, 0.5, 1)
    known.keep(seen([1.0, 2, 3], [0.1, 0.2, 0.3], [1.0, 3, 0], active=[True, True, False]), weights, counts=True)
    report = known.report(weights)
    assert report.weights == {"a": 2.0, "b": 0.5, "c": 1.0}
    assert report.losses == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert report.ratios == {"a": 0.1, "b": 0.2, "c": 0.3}
    assert report.norms == {"a": 1.0, "b": 3.0, "c": 0.0}
    assert report.step_factor == 0.875
    assert math.isnan(report.trunk_factor)
    assert report.updates == 1


def test_of_a_task_that_an_update_did_not_see_the_latest_numbers_stay() -> None:
    known = Known(TASKS)
    known.keep(seen([1.0, 2, 3], [0.1, 0.2, 0.3], [1.0, 1, 1]), ONE, counts=True)
    nan = torch.nan
    known.keep(seen([4.0, nan, 6], [0.4, nan, nan], [2.0, nan, nan], active=[True, False, True]), ONE, counts=True)
    report = known.report(ONE)
    assert report.losses == {"a": 4.0, "b": 2.0, "c": 6.0}
    assert report.ratios == {"a": 0.4, "b": 0.2, "c": 0.3}
    assert report.norms == {"a": 2.0, "b": 1.0, "c": 1.0}


def test_factors_are_of_the_last_update_and_its_active_tasks_alone() -> None:
    known, gradients = Known(TASKS), {t: torch.randn(7, dtype=torch.float64) for t in TASKS}
    gram = task_gram(gradients)
    known.keep(seen(norms=[9.0, 9, 9]), vector(5, 5, 5), counts=True)
    weights = vector(2, 0.5, torch.nan)
    known.keep(seen(norms=gram.norm, gram=gram.gg, active=[True, True, False]), weights, counts=True)
    report = known.report(ONE)  # not those that the next total carries
    a, b = gradients["a"], gradients["b"]
    step = (2 * a.norm() + 0.5 * b.norm()) / (a.norm() + b.norm())
    trunk = (2 * a + 0.5 * b).norm() / (a + b).norm()
    assert report.step_factor == pytest.approx(step.item(), rel=1e-14)
    assert report.trunk_factor == pytest.approx(trunk.item(), rel=1e-12)


def test_the_gramian_is_reported_with_its_names_and_as_a_copy() -> None:
    known, gram = Known(TASKS), task_gram({t: torch.randn(5) for t in TASKS})
    known.keep(seen(gram=gram.gg), ONE, counts=True)
    found = known.report(ONE).gram
    assert found.tasks == TASKS
    assert found.gg.equal(gram.gg)
    found.gg.zero_()
    assert known.report(ONE).gram.gg.equal(gram.gg)


def test_a_provisional_update_is_reported_but_counts_in_no_mean() -> None:
    known = Known(TASKS)
    known.keep(seen([1.0, 2, 3]), vector(4, 1, 1), counts=False)
    assert known.report(ONE).losses == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert known.report(ONE).updates == 0
    assert known.static_weights() == dict.fromkeys(TASKS, 1.0)


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(-10, 10), min_size=3, max_size=3), min_size=1, max_size=4), st.integers(-10, 10))
def test_static_weights_are_the_mean_shares_and_their_sum_is_the_number_of_tasks(
    powers: list[list[int]], unit: int
) -> None:
    rows = 10.0 ** torch.tensor(powers, dtype=torch.float64)
    known = Known(TASKS)
    for row in rows:
        known.keep(seen([1.0, 1, 1]), 10.0**unit * row, counts=True)
    shares = (rows / rows.sum(1, keepdim=True)).mean(0)
    found = known.static_weights()
    assert list(found) == [*TASKS]
    assert sum(found.values()) == pytest.approx(3.0, rel=1e-14)
    assert [*found.values()] == pytest.approx((3 * shares).tolist(), rel=1e-12)


def test_a_tasks_share_is_the_mean_of_the_updates_that_saw_it_and_one_for_a_task_never_seen() -> None:
    known = Known(TASKS)
    known.keep(seen([1.0, 1, 1], active=[True, True, False]), vector(1, 2, 1), counts=True)
    known.keep(seen([1.0, 1, 1], active=[True, False, False]), vector(2, 1, 1), counts=True)
    mean = {"a": 3 / 8, "b": 1 / 2, "c": 1 / 3}
    total = sum(mean.values())
    assert known.static_weights() == pytest.approx({t: 3 * x / total for t, x in mean.items()}, rel=1e-14)


def test_equal_weights_of_any_size_are_static_weights_of_one() -> None:
    known = Known(TASKS)
    assert known.static_weights() == dict.fromkeys(TASKS, 1.0)
    for size in (1e-10, 1.0, 1e10):
        known.keep(seen([1.0, 1, 1]), size * ONE, counts=True)
    assert known.static_weights() == pytest.approx(dict.fromkeys(TASKS, 1.0), rel=1e-14)


def test_the_state_is_saved_whole_copied_and_not_rounded() -> None:
    known = Known(TASKS)
    for _ in range(3):
        gram = task_gram({t: torch.randn(5) for t in TASKS})
        known.keep(seen(torch.rand(3), torch.rand(3), gram.norm, gram=gram.gg), torch.rand(3).double(), counts=True)
    loaded = Known(TASKS)
    loaded.load_state_dict(known.state_dict())
    for other in (loaded, copy.deepcopy(known), copy.deepcopy(known).half()):
        one, two = known.report(ONE), other.report(ONE)
        assert one.gram.gg.equal(two.gram.gg)
        for name in ("norms", "ratios", "losses", "step_factor", "trunk_factor", "updates"):
            assert getattr(one, name) == getattr(two, name)
        assert known.static_weights() == other.static_weights()


def test_an_update_reads_nothing_on_the_host() -> None:
    known = Known(TASKS).to("meta")
    known.keep(on_meta(seen([1.0, 1, 1], gram=torch.eye(3))), ONE.to("meta"), counts=True)
    assert known.latest.is_meta

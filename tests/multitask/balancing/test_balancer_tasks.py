"""Tasks that are absent, late, solved, without labels, or whose losses cannot be balanced."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.multitask.nets import (
    assert_near,
    assert_same_gradient,
    assert_same_state,
    batch,
    descend,
    net,
    step,
    steps,
    true_gradients,
    true_norms,
    weighted,
)

from truestep.multitask import Balancer
from truestep.multitask._dynamic_task_priority import DynamicTaskPriority
from truestep.multitask._gradnorm import GradNorm
from truestep.multitask._uncertainty_weighting import UncertaintyWeighting
from truestep.multitask._unit_norm import UnitNorm


@pytest.mark.parametrize("normalize", ["budget", "sum"])
@pytest.mark.parametrize("layer", [False, True])
def test_an_absent_task_keeps_its_weight_and_is_in_no_sum(layer: bool, normalize: str) -> None:
    model = net()
    place = model.trunk[2] if layer else None
    balancer = Balancer(GradNorm(1.0), "abc", normalize=normalize, layer=place)
    step(model, balancer, *batch())
    before = balancer.report
    descend(model)
    x, y = batch(seed=3, tasks="ac")
    norms = true_norms(model, x, y, None if place is None else place.weight)
    expected = true_gradients(model, x, y)
    step(model, balancer, x, y)
    after = balancer.report
    assert_same_gradient(model, weighted(after.weights, expected))
    assert after.weights["b"] == before.weights["b"]
    assert (after.norms["b"], after.losses["b"]) == (before.norms["b"], before.losses["b"])
    assert_near({t: after.norms[t] for t in "ac"}, norms)
    budget = [(r.weights["a"] + r.weights["c"]) for r in (before, after)]
    if normalize == "sum":
        assert abs(budget[0] - budget[1]) <= 1e-12
    else:
        assert abs(sum(after.weights[t] * norms[t] for t in "ac") - sum(norms.values())) <= 1e-12 * sum(norms.values())


def test_a_task_that_appears_late_gets_its_own_first_loss() -> None:
    model = net()
    balancer = Balancer(GradNorm(1.0), "abc")
    for seed in range(3):
        step(model, balancer, *batch(seed=seed, tasks="ab"))
        descend(model)
    assert torch.tensor(balancer.report.ratios["c"]).isnan()
    assert balancer.report.weights["c"] == 1.0
    x, y = batch(seed=4)
    step(model, balancer, x, y)
    assert balancer.report.ratios["c"] == 1.0
    assert abs(balancer.report.ratios["a"] - 1.0) > 1e-3
    first = balancer.report.losses["c"]
    x, y = batch(seed=5)
    step(model, balancer, x, y)
    assert abs(balancer.report.ratios["c"] - model.plain(x, y)["c"].item() / first) <= 1e-12


def test_first_losses_are_given_or_the_mean_of_the_first_updates() -> None:
    model = net()
    balancer = Balancer(GradNorm(1.0), "abc", initial={"a": 0.25}, initial_batches=3, update_every=2)
    losses = []
    for seed in range(10):
        step(model, balancer, *batch(seed=seed))
        if seed % 2 == 0:
            losses.append(balancer.report.losses)
            first = {t: sum(x[t] for x in losses[:3]) / len(losses[:3]) for t in "bc"} | {"a": 0.25}
            assert_near(balancer.report.ratios, {t: losses[-1][t] / first[t] for t in "abc"})


def test_masked_losses_are_means_over_the_labels_that_are_there() -> None:
    model, (x, y) = net(), batch(rows=6)
    keep = {"a": torch.tensor([1, 0, 1, 1, 0, 1]), "b": torch.tensor([True, False] * 3), "c": torch.zeros(6).bool()}
    holes = {t: torch.where(mask != 0, 0.0, torch.nan).double() for t, mask in keep.items()}  # whatever stands there
    balancer = Balancer(GradNorm(1.0), "abc")
    rows = model.losses(balancer.split(model.trunk(x)), y, "none")
    model.zero_grad()
    total = balancer.total({t: loss + holes[t] for t, loss in rows.items()}, mask=keep)
    total.backward()
    report = balancer.report
    reference = {}
    for task in "ab":
        some = keep[task].bool()
        reference |= true_gradients(model, x[some], {task: y[task][some]})
    assert_same_gradient(model, weighted(report.weights, reference))
    assert report.weights["c"] == 1.0  # no label at all: absent
    assert torch.tensor(report.losses["c"]).isnan()
    assert abs(report.step_factor - 1) <= 1e-12
    z = model.trunk(x)
    a = model.losses({"a": z}, {"a": y["a"]}, "none")["a"][keep["a"].bool()].mean()
    assert abs(report.norms["a"] / torch.autograd.grad(a, z)[0].norm().item() - 1) <= 1e-12


def test_a_solved_task_keeps_its_weight_and_stops_nothing() -> None:
    for rule in (GradNorm(1.0), UnitNorm(), UncertaintyWeighting(solve="direct"), DynamicTaskPriority(unit="loss")):
        model, (x, y) = net(), batch()
        balancer = Balancer(rule, "abc")
        step(model, balancer, x, y)
        before = balancer.report.weights["b"]
        y["b"] = model.heads["b"](model.trunk(x)).detach()
        norms = true_norms(model, x, y)
        step(model, balancer, x, y)
        assert balancer.report.losses["b"] == 0.0
        assert balancer.report.weights["b"] == before
        assert balancer.report.step_factor == pytest.approx(1, abs=1e-12)
        assert balancer.report.norms["b"] == norms["b"] == 0.0
        x, y = batch(seed=3)
        expected = true_gradients(model, x, y)
        step(model, balancer, x, y)
        assert_same_gradient(model, weighted(balancer.report.weights, expected))


def test_a_task_solved_at_first_sight_waits_for_its_first_loss() -> None:
    model, (x, y) = net(), batch()
    y["b"] = model.heads["b"](model.trunk(x)).detach()
    balancer = Balancer(GradNorm(1.0), "abc")
    step(model, balancer, x, y)
    assert torch.tensor(balancer.report.ratios["b"]).isnan()
    step(model, balancer, *batch(seed=3))
    assert balancer.report.ratios["b"] == 1.0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
@pytest.mark.parametrize(
    "settings",
    [{}, {"layer": True}, {"layer": True, "gram": True}, {"accumulate": 2}, {"layer": True, "accumulate": 2}],
)
def test_a_bad_loss_is_refused_by_its_tasks_name_and_leaves_no_trace(bad: float, settings: dict[str, Any]) -> None:
    model, (x, y) = net(), batch()
    layer = model.trunk[2] if settings.get("layer") else None
    balancer = Balancer(GradNorm(1.0), "abc", **(settings | {"layer": layer}))
    for fresh in (True, False):  # the very first update, and a later one
        before = balancer.state_dict()
        losses = model.losses(balancer.split(model.trunk(x)), y)
        losses["b"] = losses["b"] * bad / losses["b"].detach().abs()
        with pytest.raises(ValueError, match=r"the loss of task 'b' is (nan|inf|-1)") as caught:
            balancer.total(losses)
        assert ("divides by it" in str(caught.value)) == (bad == -1.0)
        if fresh or "accumulate" not in settings:
            assert_same_state(balancer.state_dict(), before)
        step(model, balancer, x, y)
        if fresh:
            assert_near(balancer.report.norms, true_norms(model, x, y, None if layer is None else layer.weight))
        steps(2, model, balancer, x, y)
        assert all(map(math.isfinite, balancer.report.norms.values()))
        assert balancer.report.step_factor == pytest.approx(1, abs=1e-12)
        assert all(w > 0 for w in balancer.report.weights.values())


def test_a_negative_loss_is_welcome_where_no_rule_divides_by_it() -> None:
    model, (x, y) = net(), batch()
    balancer = Balancer(GradNorm(0), "abc")
    losses = model.losses(balancer.split(model.trunk(x)), y)
    balancer.total({task: loss - 10.0 for task, loss in losses.items()}).backward()
    weights, norms = balancer.report.weights, balancer.report.norms
    assert_near({t: weights[t] * norms[t] for t in "abc"}, dict.fromkeys("abc", sum(norms.values()) / 3))


@pytest.mark.parametrize("tasks", [(), ("a", "a"), ("a", "b", "a")])
def test_tasks_are_different_names_and_at_least_one(tasks: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="`tasks` must be different names"):
        Balancer(UnitNorm(), tasks)


@pytest.mark.parametrize("argument", ["losses", "mask", "count", "values"])
def test_an_unknown_name_is_refused_wherever_it_stands(argument: str) -> None:
    model, (x, y) = net(), batch()
    balancer = Balancer(UnitNorm(), "abc")
    losses = model.losses(balancer.split(model.trunk(x)), y, "none")
    calls = {
        "losses": lambda: balancer.total(losses | {"d": losses["a"]}),
        "mask": lambda: balancer.total(losses, mask={"d": torch.ones(8)}),
        "count": lambda: balancer.total(losses, count={"d": 1}),
        "values": lambda: balancer.kpi({"d": 0.5}),
    }
    with pytest.raises(ValueError, match=f"`{argument}` names 'd', which is no task of this balancer: a, b, c"):
        calls[argument]()


@pytest.mark.parametrize("keep", [torch.ones(7), torch.tensor(True)])
def test_a_mask_that_does_not_fit_its_losses_is_refused(keep: torch.Tensor) -> None:
    model, (x, y) = net(), batch()
    balancer = Balancer(UnitNorm(), "abc")
    losses = model.losses(balancer.split(model.trunk(x)), y, "none")
    with pytest.raises(ValueError, match="`mask` of 'a' has shape"):
        balancer.total(losses, mask={"a": keep})
    with pytest.raises(ValueError, match="its task no loss"):
        balancer.total({"b": losses["b"]}, mask={"a": torch.ones(8)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize": "mean"}, "`normalize` must be one of budget, sum, none; found 'mean'"),
        ({"update_every": 0}, "`update_every` must be a positive int; found 0"),
        ({"accumulate": 0}, "`accumulate` must be a positive int; found 0"),
        ({"initial": {"d": 1.0}}, r"`initial` must give a positive finite loss of a task \(a, b, c\); found 'd': 1.0"),
        ({"initial": {"a": 0.0}}, "found 'a': 0.0"),
        ({"initial_batches": 0}, "`initial_batches` must be a positive int; found 0"),
        ({"layer": torch.nn.Tanh()}, "`layer` has no parameter"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        Balancer(UnitNorm(), "abc", **settings)


def test_kpis_are_averaged_until_the_next_update_and_must_be_shares() -> None:
    model = net()
    rule = DynamicTaskPriority(smoothing=0)
    balancer = Balancer(rule, "abc", normalize="none", update_every=2)
    balancer.kpi({"a": 0.1, "b": 0.3})
    balancer.kpi({"a": 0.3})
    step(model, balancer, *batch())
    expected = {t: -(1 - k) * math.log(k) for t, k in {"a": 0.2, "b": 0.3}.items()}
    assert_near({t: balancer.report.weights[t] for t in "ab"}, expected)
    balancer.kpi({"a": 0.9})
    step(model, balancer, *batch())  # no update: still waiting
    assert balancer.report.weights["a"] == pytest.approx(expected["a"])
    step(model, balancer, *batch())
    assert balancer.report.weights["a"] == pytest.approx(-0.1 * math.log(0.9))
    for bad in (-0.1, 1.5, torch.nan):
        with pytest.raises(ValueError, match=r"the KPI of 'a' must be in \[0, 1\]"):
            balancer.kpi({"b": 0.5, "a": bad})


@pytest.mark.parametrize("normalize", ["budget", "sum"])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_task_that_appears_on_a_held_step_is_weighed_at_once_beside_the_others(
    accumulate: int, normalize: Any
) -> None:
    model = net()
    balancer = Balancer(GradNorm(0.0), "abc", update_every=100, accumulate=accumulate, normalize=normalize)
    for _ in range(2):
        step(model, balancer, *batch(tasks="ab"))
    before = balancer.report.weights
    x, y = batch()
    norms = true_norms(model, x, y)
    for _ in range(2):
        step(model, balancer, x, y)
        after = balancer.report.weights
        assert {task: after[task] for task in "ab"} == {task: before[task] for task in "ab"}
        assert after["c"] * norms["c"] == pytest.approx(after["a"] * norms["a"], rel=1e-12)


def test_a_bad_loss_is_refused_on_a_step_that_is_not_measured_too() -> None:
    model = net()
    balancer = Balancer(GradNorm(1.0), "abc", update_every=100)
    x, y = batch()
    step(model, balancer, x, y)
    for bad in (math.nan, math.inf, -1.0):
        losses = model.losses(balancer.split(model.trunk(x)), y)
        with pytest.raises(ValueError, match="the loss of task 'b' is"):
            balancer.total(losses | {"b": losses["b"] * 0 + bad})


def test_a_head_that_reads_the_features_beside_its_view_is_refused() -> None:
    model = net()
    balancer = Balancer(GradNorm(1.0), "abc")
    x, y = batch()
    z = model.trunk(x)
    losses = model.losses(balancer.split(z), y)
    with pytest.raises(ValueError, match="'a' reads the features beside"):
        balancer.total(losses | {"a": losses["a"] + z.square().mean()})


def test_a_validation_pass_between_split_and_total_takes_nothing_away() -> None:
    model = net()
    balancer = Balancer(GradNorm(1.0), "abc")
    x, y = batch()
    losses = model.losses(balancer.split(model.trunk(x)), y)
    with torch.no_grad():
        balancer.total(model.losses(balancer.split(model.trunk(x)), y))
    balancer.total(losses).backward()
    assert balancer.report.updates == 1


@pytest.mark.parametrize("rule", [GradNorm, "gradnorm", None])
def test_what_is_no_rule_is_refused_in_one_line(rule: Any, unchecked: None) -> None:
    with pytest.raises(ValueError, match="`rule` must be a rule such as"):
        Balancer(rule, "ab")


def test_kpis_told_to_a_rule_that_reads_none_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    balancer = Balancer(GradNorm(1.0), "ab")
    for _ in range(2):
        balancer.kpi({"a": 0.5})
    assert capsys.readouterr().err.count("GradNorm reads no KPIs") == 1

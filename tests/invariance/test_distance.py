"""How far recorded runs are from equilibrium: random walks through the recorder, and steps typed in by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import nan, sqrt
from typing import Any

import pytest
import torch
from tests.invariance.random_walk import ELEMENTS, SIZE, UNITS, noise, start
from torch.optim import SGD, Adam, AdamW

from truestep.core import Asked, Gram, Recorder, Step
from truestep.invariance._distance import Distance, distance
from truestep.invariance._effective import per_layer
from truestep.invariance._equilibrium import GroupEquilibrium, equilibrium
from truestep.invariance._rule import Rule


def asked(lr: float = 0.1, weight_decay: float = 0.05, blocks: int = 1, **settings: float) -> Asked:
    names = ("lr", "weight_decay", "momentum", "beta1", "beta2", "eps")
    given = {**dict.fromkeys(names, nan), "momentum": 0.0, "lr": lr, "weight_decay": weight_decay, **settings}
    return Asked(*(torch.full((blocks,), float(given[name]), dtype=torch.float64) for name in names))


def step(index: int, angle: float, *, wanted: Asked | None = None, gradient: float = 3.0, **fields: Any) -> Step:
    """A step that turned a weight of norm 2 by `angle` and left its norm, with a gradient of this length."""
    turn = torch.tensor([angle], dtype=torch.float64)
    ww, gg, zero = torch.full((1,), 4.0).double(), torch.full((1,), gradient**2).double(), torch.zeros(1).double()
    took = Gram(ww, zero, 4 * (turn.cos() - 1), gg, zero, 8 * (1 - turn.cos()))
    settings = {"optimizer": "SGD", "loss": nan, "samples": nan, "skipped": False, "names": ("w",), **fields}
    return Step(index=index, time=0.0, asked=wanted or asked(), took=took, **settings)


SGD_RULE = Rule("sgd", lr=1.0)  # the kind alone is read


def test_the_angle_is_the_root_mean_square_over_the_last_steps() -> None:
    found = distance([step(i, angle) for i, angle in enumerate((1.0, 0.3, 0.4))], SGD_RULE, last=2)
    assert float(found.angle) == pytest.approx(sqrt((0.09 + 0.16) / 2), rel=1e-9)
    of_rule = GroupEquilibrium(Rule("sgd", lr=0.1, weight_decay=0.05)).measured(gradient_size=36.0)
    assert float(found.equilibrium_angle) == pytest.approx(float(of_rule.angle), rel=1e-12)
    assert float(found.ratio) == pytest.approx(sqrt(0.125) / float(of_rule.angle), rel=1e-9)
    assert float(found.norm_ratio) == pytest.approx(2 / float(of_rule.norm), rel=1e-9)


def test_norm_times_are_counted_over_the_steps_that_were_not_recorded_too() -> None:
    every = [step(i, 0.1) for i in range(101)]
    some = [each for each in every if each.index % 20 == 0]
    for steps in (every, some):
        assert float(distance(steps, SGD_RULE).elapsed) == pytest.approx(101 * 4 * 0.005, rel=1e-12)


def test_each_step_counts_with_its_own_lr_and_decay() -> None:
    steps = [step(0, 0.1), step(10, 0.1, wanted=asked(lr=0.2, momentum=0.5)), step(15, 0.1, wanted=asked(lr=0.0))]
    found = distance(steps, SGD_RULE)
    assert float(found.elapsed) == pytest.approx(4 * (10 * 0.005 + 5 * 0.01 / 0.5), rel=1e-12)
    squares = [
        float(GroupEquilibrium(Rule("sgd", lr=lr, weight_decay=0.05, momentum=mu)).angle) ** 2
        for lr, mu in ((0.1, 0.0), (0.2, 0.5), (0.0, 0.0))
    ]
    assert float(found.equilibrium_angle) == pytest.approx(sqrt(sum(squares) / 3), rel=1e-9)


def test_skipped_steps_are_passed_over() -> None:
    steps = [step(0, 0.1), step(1, 0.0, skipped=True), step(2, 0.1)]
    assert float(distance(steps, SGD_RULE).angle) == pytest.approx(0.1, rel=1e-9)


def test_without_decay_the_ratio_is_endless_and_no_time_goes_by() -> None:
    found = distance([step(0, 0.1, wanted=asked(weight_decay=0.0))], SGD_RULE)
    assert found.ratio.isinf()
    assert float(found.elapsed) == 0.0
    assert found.equilibrium_norm.isinf()


def record(build: Any, norm: float, steps: int, every: int = 1) -> tuple[list[Step], Any, dict[str, torch.Tensor]]:
    """A random walk of UNITS rows, recorded by unit, from `norm` times its equilibrium norm."""
    (group,) = equilibrium(build([torch.zeros(2)])).groups
    weight = torch.nn.Parameter(start(norm * float(group.measured(SIZE, ELEMENTS).norm)))
    optimizer, found = build([weight]), list[Step]()
    due = lambda index: index % every == 0  # noqa: E731
    recorder = Recorder({"fc.weight": weight}, optimizer, found.append, units=["fc.weight"], due=due)
    for _ in range(steps):
        weight.grad = noise(weight.detach())
        optimizer.step()
    recorder.close()
    return found, optimizer, {"fc.weight": weight}


def test_a_walk_in_equilibrium_is_said_to_be_there() -> None:
    steps, optimizer, _ = record(partial(SGD, lr=0.1, momentum=0.5, weight_decay=0.02), 1.0, 300, every=4)
    found = distance(steps, optimizer, last=50)
    assert found.names[3] == "fc.weight[3]"
    assert len(found.names) == UNITS
    assert float(found.elapsed[0]) == pytest.approx(4 * 0.004 * 297, rel=1e-9)
    assert per_layer(found.names, found.ratio)["fc.weight"] == pytest.approx(1, abs=0.01)
    assert per_layer(found.names, found.norm_ratio)["fc.weight"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("norm", [3.0, 0.5])
def test_a_walk_far_from_equilibrium_turns_by_the_square_of_its_norms_share(norm: float) -> None:
    steps, optimizer, _ = record(partial(SGD, lr=0.1, weight_decay=0.001), norm, 10)
    found = distance(steps, optimizer)
    assert float(found.elapsed.max()) < 0.01
    assert float(found.ratio.mean()) == pytest.approx(norm**-2, rel=0.05)
    assert float(found.norm_ratio.mean()) == pytest.approx(norm, rel=0.05)


def test_adamw_finds_its_norm_where_the_elements_are_known() -> None:
    steps, optimizer, params = record(partial(AdamW, lr=0.01, weight_decay=0.5), 1.0, 250)
    found = distance(steps, optimizer, params=params)
    assert per_layer(found.names, found.ratio)["fc.weight"] == pytest.approx(1, abs=0.02)
    assert per_layer(found.names, found.norm_ratio)["fc.weight"] == pytest.approx(1, abs=0.02)
    without = distance(steps, optimizer)
    assert torch.equal(without.ratio, found.ratio)
    assert bool(without.equilibrium_norm.isnan().all())


def test_adam_with_coupled_decay_needs_the_elements_for_all() -> None:
    steps, optimizer, params = record(partial(Adam, lr=0.01, weight_decay=0.05), 1.0, 250)
    found = distance(steps, optimizer, params=params)
    assert per_layer(found.names, found.ratio)["fc.weight"] == pytest.approx(1, abs=0.02)
    assert 1 < float(found.elapsed.mean()) < 10
    assert bool(distance(steps, optimizer).ratio.isnan().all())


def test_a_whole_block_counts_all_its_elements() -> None:
    adamw = step(0, 0.1, wanted=asked(beta1=0.9))
    rule = Rule("adam", lr=1.0, momentum=0.9, decoupled=True)
    found = distance([adamw], rule, params={"w": torch.zeros(3, 5)})
    expected = GroupEquilibrium(Rule("adam", lr=0.1, weight_decay=0.05, momentum=0.9, decoupled=True), numel=15).norm
    assert float(found.equilibrium_norm) == pytest.approx(float(expected), rel=1e-12)


def test_adams_coupled_angle_is_that_of_the_mean_gradient_of_the_last_steps() -> None:
    wanted = asked(beta1=0.9)
    steps = [step(i, 0.1, wanted=wanted, gradient=length) for i, length in enumerate((50.0, 1.0, 7.0))]
    found = distance(steps, Rule("adam", lr=1.0), last=2, params={"w": torch.zeros(15)})
    rule = Rule("adam", lr=0.1, weight_decay=0.05, momentum=0.9)
    expected = GroupEquilibrium(rule, gradient_size=4 * (1 + 49) / 2, numel=15).angle
    assert float(found.equilibrium_angle) == pytest.approx(float(expected), rel=1e-12)


def test_settings_that_a_rule_does_not_have_are_none() -> None:
    found = distance([step(0, 0.1, wanted=asked(weight_decay=nan, momentum=nan))], SGD_RULE)
    assert float(found.elapsed) == 0.0
    plain = distance([step(0, 0.1, wanted=asked(momentum=nan))], SGD_RULE)
    assert torch.equal(plain.ratio, distance([step(0, 0.1)], SGD_RULE).ratio)


def test_steps_that_do_not_belong_together_are_refused() -> None:
    one = step(0, 0.1)
    for steps in ([], [replace(one, skipped=True)]):
        with pytest.raises(ValueError, match="`steps` must hold a step that was taken"):
            distance(steps, SGD_RULE)
    with pytest.raises(ValueError, match="`last` be positive, found 1 and 0"):
        distance([one], SGD_RULE, last=0)
    with pytest.raises(ValueError, match="`steps` must be of one optimizer, found \\['Adam', 'SGD'\\]"):
        distance([one, step(1, 0.1, optimizer="Adam")], SGD_RULE)
    with pytest.raises(ValueError, match="step 0 has others"):
        distance([one, step(1, 0.1, names=("v",))], SGD_RULE)


def test_groups_of_several_kinds_are_refused() -> None:
    groups: list[dict[str, Any]] = [{"params": [torch.zeros(2)], "nesterov": flag} for flag in (True, False)]
    with pytest.raises(ValueError, match="`optimizer` must have groups of one kind"):
        distance([step(0, 0.1)], SGD(groups, lr=0.1, momentum=0.9))


def test_it_prints_a_row_for_each_block() -> None:
    one = torch.ones(2, dtype=torch.float64)
    head, first, second = str(Distance(("a", "long"), 2e-3 * one, 1e-3 * one, 3 * one, 4 * one, 5 * one)).splitlines()
    assert head.endswith(" norm times")
    assert first.split() == ["a", "2", "1", "2", "3", "4", "5"]
    assert len(head) == len(first) == len(second)

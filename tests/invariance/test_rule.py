"""What is read from an optimizer's groups, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.cases import RULES
from tests.invariance.random_walk import SGDW, Lion
from torch.optim import SGD, Adam, AdamW

from truestep.invariance._rule import KNOWN, Rule, group_rule, rules

W = [torch.zeros(2)]


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (SGD(W, lr=0.1), Rule("sgd", lr=0.1)),
        (
            SGD(W, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01),
            Rule("sgd", lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01),
        ),
        (SGD(W, lr=0.1, momentum=0.9, nesterov=True), Rule("sgd", lr=0.1, momentum=0.9, nesterov=True)),
        (SGDW(W, lr=0.1, weight_decay=0.5), Rule("sgd", lr=0.1, weight_decay=0.5, decoupled=True)),
        (
            Adam(W, lr=1e-3, betas=(0.8, 0.99), weight_decay=0.1),
            Rule("adam", lr=1e-3, momentum=0.8, beta2=0.99, weight_decay=0.1),
        ),
        (AdamW(W), Rule("adam", lr=1e-3, momentum=0.9, beta2=0.999, weight_decay=0.01, decoupled=True)),
        (
            Lion(W, lr=1e-4, betas=(0.9, 0.99), weight_decay=1.0),
            Rule("lion", lr=1e-4, momentum=0.9, beta2=0.99, weight_decay=1.0, decoupled=True),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_known_class_is_read(optimizer: torch.optim.Optimizer, expected: Rule) -> None:
    (found,) = rules(optimizer)
    if found.family == "sgd":
        expected_fields, found_fields = repr(expected), repr(found)
        assert found_fields == expected_fields  # beta2 is nan in both, which is equal to nothing
    else:
        assert found == expected


def test_settings_are_read_as_they_are_now_and_tensors_are_numbers() -> None:
    optimizer = SGD([torch.zeros(2)], lr=torch.tensor(0.5), weight_decay=0.25)
    assert rules(optimizer)[0].lr == 0.5
    optimizer.param_groups[0]["lr"] = 0.125
    assert rules(optimizer)[0].lr == 0.125


def test_adam_that_was_told_to_decouple_is_adamw() -> None:
    (group,) = (optimizer := Adam([torch.zeros(2)], weight_decay=0.1)).param_groups
    group["decoupled_weight_decay"] = True
    assert rules(optimizer)[0].decoupled


def test_every_group_has_its_rule() -> None:
    groups: list[dict[str, Any]] = [{"params": [torch.zeros(2)]}, {"params": [torch.zeros(2)], "lr": 2.0}]
    assert [rule.lr for rule in rules(SGD(groups, lr=1.0))] == [1.0, 2.0]


def test_one_group_is_read_without_the_others() -> None:
    groups: list[dict[str, Any]] = [{"params": [torch.zeros(2)]}, {"params": [torch.zeros(2)], "amsgrad": True}]
    plain, amsgrad = AdamW(groups, lr=0.25).param_groups
    rule = group_rule("AdamW", plain)
    assert (rule.family, rule.decoupled, rule.lr, rule.momentum) == ("adam", True, 0.25, 0.9)
    with pytest.raises(ValueError, match="must not use amsgrad"):
        group_rule("AdamW", amsgrad)
    with pytest.raises(ValueError, match="found RMSprop"):
        group_rule("RMSprop", plain)
    assert {"SGD", "SGDW", "Adam", "AdamW", "Lion"} == set(KNOWN)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"SGD", "Adam", "AdamW"}))
def test_other_rules_of_torch_are_refused(name: str) -> None:
    optimizer = RULES[name]([torch.zeros(2, 2, requires_grad=True)])
    with pytest.raises(ValueError, match=f"`optimizer` must be of a class with a known equilibrium .* found {name}"):
        rules(optimizer)


def test_a_subclass_is_not_taken_for_its_base() -> None:
    class Mine(SGD):
        pass

    with pytest.raises(ValueError, match="found Mine: pass a `Rule`"):
        rules(Mine([torch.zeros(2)], lr=0.1))


def test_amsgrad_is_refused() -> None:
    with pytest.raises(ValueError, match="must not use amsgrad"):
        rules(AdamW([torch.zeros(2)], amsgrad=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "lion", "beta2": 0.99}, "lion needs `decoupled=True` and `beta2`"),
        ({"family": "lion", "decoupled": True}, "lion needs `decoupled=True` and `beta2`"),
        ({"family": "adam", "nesterov": True}, "`nesterov` is a setting of sgd"),
        ({"family": "sgd", "nesterov": True, "momentum": 0.9, "dampening": 0.1}, "`nesterov` is a setting of sgd"),
    ],
)
def test_a_rule_that_does_not_exist_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule(lr=0.1, **settings)


def test_a_fresh_gradient_is_moved_by_the_step_lr() -> None:
    gradient, settings = torch.tensor([1.0]), {"momentum": 0.5, "dampening": 0.25}
    for optimizer in (SGD([torch.zeros(1)], lr=0.5, **settings), SGD([torch.zeros(1)], lr=0.5, dampening=0.25)):
        (p,) = optimizer.param_groups[0]["params"]
        p.grad = torch.zeros(1)
        optimizer.step()  # torch puts the first gradient into the buffer whole; dampening begins with the second
        p.grad = gradient
        optimizer.step()
        assert float(-p) == float(rules(optimizer)[0].step_lr)
    assert float(Rule("adam", lr=0.5, momentum=0.75).step_lr) == 0.125

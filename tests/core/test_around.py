"""Calls around a step come in their order, once a step."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from truestep.core._around import Around, check_beside, keeps, kept_by


class Outer(SGD):
    """A rule that calls its base's step, which carries the hooks too."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def around(optimizer: SGD, calls: list[str]) -> Around:
    def note(name: str) -> Any:
        return lambda: calls.append(name)

    return Around(optimizer, before=note("before"), ready=note("ready"), first=note("first"), last=note("last"))


@pytest.mark.parametrize("rule", [SGD, Outer])
def test_each_call_comes_once_a_step_and_around_the_others(rule: Any) -> None:
    calls: list[str] = []
    optimizer = rule([nn.Parameter(torch.ones(1))], lr=0.1)
    optimizer.register_step_post_hook(lambda *_: calls.append("other"))
    control = around(optimizer, calls)
    optimizer.register_step_post_hook(lambda *_: calls.append("later"))
    order = ["before", "ready", "first", "other", "later", "last"]
    optimizer.step()
    if rule is SGD:
        assert calls == order
    else:
        assert [call for call in calls if call not in ("other", "later")] == ["before", "ready", "first", "last"]
    control.close()
    calls.clear()
    optimizer.step()
    assert set(calls) <= {"other", "later"}


@pytest.mark.parametrize("keyword", [False, True])
def test_with_a_closure_the_gradients_are_ready_after_its_first_evaluation(keyword: bool) -> None:
    calls: list[str] = []
    optimizer = torch.optim.LBFGS([nn.Parameter(torch.ones(2))], max_iter=3)
    around(optimizer, calls)  # type: ignore[arg-type]

    def closure() -> Any:
        calls.append("closure")
        optimizer.zero_grad()
        loss = optimizer.param_groups[0]["params"][0].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure=closure) if keyword else optimizer.step(closure)
    assert calls[:3] == ["before", "closure", "ready"]
    assert calls.count("closure") > 1
    assert calls.count("ready") == 1
    assert calls[-2:] == ["first", "last"]


def test_a_step_that_failed_does_not_confuse_the_next() -> None:
    calls: list[str] = []
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    around(optimizer, calls)

    def fails() -> Any:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        optimizer.step(fails)
    optimizer.step()
    assert calls == ["before", "before", "ready", "first", "last"]


def test_the_gradients_of_each_evaluation_are_ready_where_that_is_asked_for() -> None:
    calls: list[str] = []
    optimizer = torch.optim.LBFGS([nn.Parameter(torch.ones(2))], max_iter=2, max_eval=3)
    Around(optimizer, ready=lambda: calls.append("ready"), again=lambda: calls.append("again"))

    def closure() -> Any:
        calls.append("closure")
        optimizer.zero_grad()
        loss = optimizer.param_groups[0]["params"][0].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calls == ["closure", "ready", "again", "closure", "ready"]


def test_who_keeps_the_gradient_comes_ahead_of_everybody() -> None:
    w = nn.Parameter(torch.ones(1))
    calls: list[str] = []
    optimizer = SGD([w], lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: calls.append("other"))
    Around(optimizer, before=lambda: calls.append("norms"), keeps=keeps("Sphere", ["norms"], [w]))
    Around(optimizer, before=lambda: calls.append("gradient"), keeps=keeps("Transform", ["gradient"], [w]))
    optimizer.step()
    assert calls == ["gradient", "other", "norms"]


@pytest.mark.usefixtures("unchecked")
def test_a_wrapper_is_refused() -> None:
    class Wrapper:
        optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.1)

    with pytest.raises(ValueError, match=r"`\.optimizer`"):
        Around(Wrapper())  # type: ignore[arg-type]


def test_what_a_control_keeps_is_known_and_kept_by_no_other() -> None:
    w, v = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SGD([w, v], lr=0.1)
    control = Around(optimizer, keeps=keeps("Sphere", ["norms"], [w]))
    assert kept_by(optimizer, "norms", [v, w]) == ["Sphere"]
    assert kept_by(optimizer, "lr", [w]) == kept_by(optimizer, "norms", [v]) == []
    check_beside(optimizer, keeps("Hold", ["lr"], [w]))
    check_beside(optimizer, keeps("Twin", ["lr", "norms"], [v]))
    with pytest.raises(
        ValueError, match="`optimizer` must have no Sphere on weights that a new Twin is given: both set"
    ):
        check_beside(optimizer, keeps("Twin", ["lr", "norms"], [v, w]))
    control.close()
    check_beside(optimizer, keeps("Twin", ["lr", "norms"], [v, w]))
    assert kept_by(optimizer, "norms", [w]) == []


def test_who_sets_a_step_s_length_stands_beside_no_one_who_sets_lr_or_norms() -> None:
    w, v = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SGD([w, v], lr=0.1)
    control = Around(optimizer, keeps=keeps("Matched", ["step"], [w]))
    assert kept_by(optimizer, "norms", [v, w]) == kept_by(optimizer, "lr", [w]) == ["Matched"]
    assert kept_by(optimizer, "gradient", [w]) == kept_by(optimizer, "norms", [v]) == []
    check_beside(optimizer, keeps("Transform", ["gradient"], [w]))
    check_beside(optimizer, keeps("Hold", ["lr"], [v]))
    for quantity, why in (
        ("lr", "an lr has no effect on a step whose length is set"),
        ("norms", "norms that are set change a step whose length is set"),
        ("step", "both set their step"),
    ):
        with pytest.raises(ValueError, match=f"no Matched on weights that a new Other is given: {why}; close"):
            check_beside(optimizer, keeps("Other", [quantity], [w]))  # type: ignore[list-item]
    control.close()
    Around(optimizer, keeps=keeps("Twin", ["lr", "norms"], [w]))
    with pytest.raises(ValueError, match=r"no Twin .*: an lr has no effect .* and norms that are set change"):
        check_beside(optimizer, keeps("Matched", ["step"], [w, v]))

"""What can be hooked is told from what cannot, and a nested step from one that ended in an exception."""

from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import SGD, Optimizer

from truestep.core import Recorder
from truestep.core._hooks import check_hooks, inside_step, not_compiled, now, skipped_by_compiler


def sgd() -> SGD:
    return SGD([Parameter(torch.ones(3))], lr=0.1)


class Accelerated(Optimizer):
    """Accelerate's way: an Optimizer by inheritance that never calls its base's constructor."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.scaler = None

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


class Delegating:
    """A plain wrapper that passes everything on."""

    def __init__(self, inner: Optimizer) -> None:
        self._opt = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_opt"], name)


class Slotted:
    __slots__ = ("optimizer",)

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer


@pytest.mark.parametrize(
    ("wrapper", "attribute"),
    [(Accelerated, "optimizer"), (Delegating, "_opt"), (Slotted, "optimizer")],
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrapper_without_hooks_is_told_where_its_optimizer_is(wrapper: Any, attribute: str) -> None:
    inner = sgd()
    weight = inner.param_groups[0]["params"][0]
    message = rf"is a {wrapper.__name__}, a wrapper .*pass the optimizer inside it: `\.{attribute}`"
    with pytest.raises(ValueError, match=message):
        check_hooks(wrapper(inner))
    with pytest.raises(ValueError, match=message):
        Recorder({"w": weight}, wrapper(inner), print)
    check_hooks(getattr(wrapper(inner), attribute))


def test_the_public_attribute_is_named_before_the_private_one() -> None:
    wrapper = Delegating(sgd())
    wrapper.optimizer, wrapper.another = sgd(), sgd()
    with pytest.raises(ValueError, match=r"`\.optimizer`"):
        check_hooks(wrapper)


@pytest.mark.parametrize(
    "thing", [None, 3, "adam", torch.nn.Linear(2, 2), SGD, [sgd()]], ids=lambda x: type(x).__name__
)
def test_what_is_no_optimizer_is_named_by_its_class(thing: Any) -> None:
    with pytest.raises(ValueError, match=f"must be a torch.optim.Optimizer .* found {type(thing).__name__}"):
        check_hooks(thing)


def test_a_step_within_a_step_of_the_same_optimizer_is_inside_it() -> None:
    seen: list[bool] = []
    one, other = sgd(), sgd()

    def look(optimizer: Optimizer, *_: Any) -> None:
        seen.append(inside_step(optimizer))

    for optimizer in (one, other):
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
        optimizer.register_step_pre_hook(look)
    one.step()
    one.step(other.step)
    one.step(one.step)
    assert seen == [False, False, False, False, True]


def test_a_step_that_ended_in_an_exception_is_not_on_the_stack() -> None:
    seen: list[bool] = []
    optimizer = sgd()
    optimizer.register_step_pre_hook(lambda opt, *_: seen.append(inside_step(opt)))
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    optimizer.step()
    assert seen == [False, False]


def test_a_function_taken_from_the_compiler_runs_as_python() -> None:
    compiling: list[bool] = []
    look = not_compiled(lambda: compiling.append(torch.compiler.is_compiling()))

    def work(x: torch.Tensor) -> torch.Tensor:
        look()
        return x + 1

    assert torch.compile(work, backend="eager")(torch.zeros(1)) == 1
    assert compiling == [False]


def test_a_function_that_the_compiler_skips_is_itself_and_runs_as_python() -> None:
    compiling: list[bool] = []

    def look() -> None:
        compiling.append(torch.compiler.is_compiling())

    def work(x: torch.Tensor) -> torch.Tensor:
        look()
        return x + 1

    assert skipped_by_compiler(look) is look
    assert torch.compile(work, backend="eager")(torch.zeros(1)) == 1
    assert compiling == [False]


def test_the_clock_goes_forward_also_for_an_optimizer_without_parameters() -> None:
    optimizer = sgd()
    first = now(optimizer)
    optimizer.param_groups[0]["params"] = []
    assert now(optimizer) >= first

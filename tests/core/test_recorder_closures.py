"""With a closure the gradient is the one at the weights before the step: that of the first evaluation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.core.beside import Beside, gradients, named, small_net
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer

NUM_STEPS = 4
RULES: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda model: SGD(model.parameters(), lr=0.1),
    "nesterov, foreach": lambda model: SGD(model.parameters(), 0.1, 0.9, nesterov=True, foreach=True),
    "Adam": lambda model: Adam(model.parameters(), lr=0.1),
    "Adam, fused": lambda model: Adam(model.parameters(), lr=0.1, fused=True),
    "LBFGS": lambda model: LBFGS(model.parameters(), lr=0.5, max_iter=5),
    "LBFGS, line search": lambda model: LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe"),
    "LBFGS, one evaluation": lambda model: LBFGS(model.parameters(), max_iter=1),
}


class Problem:
    """A net, its batch and a closure that counts its evaluations."""

    def __init__(self, rule: str, **options: Any) -> None:
        self.model, self.evaluations = small_net(), 0
        self.batch = torch.randn(8, 5)
        self.optimizer = RULES[rule](self.model)
        self.run = Beside(named(self.model), self.optimizer, **options)

    def loss(self) -> Tensor:
        return (self.model(self.batch) - 1).square().mean()

    def closure(self) -> Tensor:
        self.evaluations += 1
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss

    def assert_step(self, step: Callable[[], Tensor]) -> None:
        """A step, compared with the loss and the gradients at the weights before it."""
        self.batch = torch.randn(8, 5)
        loss, at_w = self.loss().detach(), gradients(self.model, self.loss)
        returned: list[Tensor] = []
        self.run.assert_step(lambda: returned.append(step()), at_w)
        assert torch.equal(returned[0].detach(), loss)


@pytest.mark.parametrize("keyword", [False, True], ids=["positional", "keyword"])
@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_is_that_of_the_first_evaluation(rule: str, keyword: bool) -> None:
    problem = Problem(rule)
    step, closure = problem.optimizer.step, problem.closure
    for _ in range(NUM_STEPS):
        start = problem.evaluations
        problem.assert_step((lambda: step(closure=closure)) if keyword else (lambda: step(closure)))
        several = rule in ("LBFGS", "LBFGS, line search")
        assert (problem.evaluations - start > 1) == several


def test_the_step_returns_what_the_closure_returned() -> None:
    problem = Problem("SGD")
    returned = object()

    def closure() -> object:
        problem.closure()
        return returned

    assert problem.optimizer.step(closure) is returned


def test_zeroing_gradients_in_place_inside_the_closure_does_not_show() -> None:
    problem = Problem("LBFGS")

    def closure() -> Tensor:
        problem.optimizer.zero_grad(set_to_none=False)
        loss = problem.loss()
        loss.backward()
        return loss

    for _ in range(NUM_STEPS):
        problem.assert_step(lambda: problem.optimizer.step(closure))


def test_a_closure_that_clips_is_recorded_with_the_clipped_gradient() -> None:
    problem = Problem("SGD")

    def closure() -> Tensor:
        loss = problem.closure()
        nn.utils.clip_grad_norm_(problem.model.parameters(), 0.01)
        return loss

    problem.optimizer.step(closure)
    assert float(problem.run.steps[0].took.gg.sum().sqrt()) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("rule", ["SGD", "LBFGS", "nesterov, foreach"])
def test_an_exception_in_the_closure_passes_and_the_next_step_is_right(rule: str) -> None:
    problem = Problem(rule)
    problem.assert_step(lambda: problem.optimizer.step(problem.closure))

    def fails() -> Tensor:
        problem.closure()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        problem.optimizer.step(fails)
    assert len(problem.run.steps) == 1
    for _ in range(2):
        problem.assert_step(lambda: problem.optimizer.step(problem.closure))


def test_a_step_that_is_not_due_gets_the_closure_itself() -> None:
    given: list[Any] = []

    class Keeps(SGD):
        def step(self, closure: Any = None) -> None:
            given.append(closure)

    model = small_net()
    optimizer = Keeps(model.parameters())
    run = Beside(named(model), optimizer, due=lambda index: index == 1)
    closure = lambda: None  # noqa: E731
    optimizer.step(closure)
    optimizer.step(closure)
    assert given[0] is closure
    assert given[1] is not closure
    assert [step.index for step in run.steps] == [1]


def test_steps_with_and_without_a_closure_may_alternate() -> None:
    problem = Problem("nesterov, foreach")
    for _ in range(NUM_STEPS):
        problem.assert_step(lambda: problem.optimizer.step(problem.closure))
        problem.closure()
        problem.run.assert_step()


def test_a_rule_that_never_calls_its_closure_used_the_gradients_that_stood() -> None:
    class Ignores(SGD):
        def step(self, closure: Any = None) -> None:
            super().step()

    model = small_net()
    run = Beside(named(model), Ignores(model.parameters(), lr=0.1))
    for _ in range(3):
        model.zero_grad()
        model(torch.randn(8, 5)).sum().backward()
        run.assert_step(lambda: run.optimizer.step(lambda: 1 / 0))

"""With a closure the gradients are judged once it has made them; LBFGS, which asks several times, is undone whole."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.loss.skipping.runs import BAD, REASON, everything, network, same
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer

from truestep.loss import Guard, guard

RULES: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda model: Adam(model.parameters(), lr=0.1, weight_decay=0.1),
    "Adam, fused": lambda model: Adam(model.parameters(), lr=0.1, weight_decay=0.1, fused=True),
    "LBFGS": lambda model: LBFGS(model.parameters(), lr=0.5, max_iter=5),
    "LBFGS, line search": lambda model: LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe"),
}


class Problem:
    """A net and a closure that may spoil the gradient of one of its evaluations."""

    def __init__(self, rule: str) -> None:
        torch.manual_seed(0)
        self.model = network()
        self.optimizer = RULES[rule](self.model)
        self.evaluations = 0

    def step(self, seed: int, bad: str = "", at: int = 1, **options: Any) -> Any:
        batch = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))
        self.evaluations = 0

        def closure() -> Tensor:
            self.evaluations += 1
            self.optimizer.zero_grad()
            loss = (self.model(batch) - 1).square().mean()
            factor = {"": 1.0, "zero": 0.0}.get(bad if self.evaluations == at else "", torch.nan)
            if bad == "inf" and self.evaluations == at:
                factor = torch.inf
            (loss * factor).backward()
            return loss

        return self.optimizer.step(closure, **options)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("rule", RULES)
def test_a_bad_first_evaluation_changes_no_bit_and_the_next_step_knows_nothing_of_it(rule: str, bad: str) -> None:
    guarded, alone = Problem(rule), Problem(rule)
    skips = guard(guarded.optimizer)
    for seed, kind in enumerate([bad, "", bad, "", ""]):
        before = everything(guarded.model, guarded.optimizer)
        loss = guarded.step(seed, kind)
        assert same(before, everything(guarded.model, guarded.optimizer)) == bool(kind)
        if kind:
            assert guarded.evaluations == 1
            assert guarded.model[0].weight.grad is not None
        else:
            assert torch.equal(loss, alone.step(seed))
    assert same(everything(guarded.model, guarded.optimizer), everything(alone.model, alone.optimizer))
    assert skips.reasons == {"not finite": 0, "zero": 0} | {REASON[bad]: 2}


@pytest.mark.parametrize("settled", [False, True])
def test_a_step_of_lbfgs_spoiled_by_a_later_evaluation_is_undone(settled: bool) -> None:
    guarded, alone = Problem("LBFGS"), Problem("LBFGS")
    skips = guard(guarded.optimizer)
    if settled:
        guarded.step(0)
        alone.step(0)
    before = everything(guarded.model, guarded.optimizer)
    guarded.step(1, "nan", at=3)
    assert guarded.evaluations == 5
    assert same(before, everything(guarded.model, guarded.optimizer))
    assert skips.reasons == {"not finite": 1, "zero": 0}
    for seed in (2, 3):
        guarded.step(seed)
        alone.step(seed)
    assert same(everything(guarded.model, guarded.optimizer), everything(alone.model, alone.optimizer))


def test_unguarded_such_a_step_spoils_the_weights() -> None:
    problem = Problem("LBFGS")
    problem.step(1, "nan", at=3)
    assert not all(p.isfinite().all() for p in problem.model.parameters())


def test_a_closure_that_raises_is_the_user_s_and_the_next_step_is_right() -> None:
    guarded, alone = Problem("SGD"), Problem("SGD")
    skips = guard(guarded.optimizer)
    with pytest.raises(ZeroDivisionError):
        guarded.optimizer.step(lambda: 1 / 0)
    guarded.step(0)
    alone.step(0)
    guarded.step(1, "nan")
    assert same(everything(guarded.model, guarded.optimizer), everything(alone.model, alone.optimizer))
    assert skips.skipped == 1


def test_the_closure_may_be_a_keyword_and_its_answer_is_returned() -> None:
    problem = Problem("SGD")
    skips: Guard = guard(problem.optimizer)
    answer = object()

    def closure() -> object:
        for p in problem.model.parameters():
            p.grad = torch.zeros_like(p)
        return answer

    assert problem.optimizer.step(closure=closure) is answer
    assert skips.last == "zero"

"""A replica's training is the training that one would write by hand."""

import random
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from tests.compare.training.nets import RULES, dropping, problem
from torch.nn.functional import cross_entropy
from torch.optim import LBFGS, SGD

from truestep.compare.training import Matched, Replica, train


def by_hand(lr: float, steps: int) -> list[float]:
    own = problem()
    model, losses = own.build(3), []
    optimizer = SGD(model.parameters(), lr=lr)
    for step, (x, y) in zip(range(steps), own.batches(5), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        losses.append(own.probe_loss(model))
    return losses


def test_the_loop_is_the_one_written_by_hand_bit_by_bit() -> None:
    found = train(problem(), partial(SGD, lr=0.1), [Replica(3, 5, 2)], schedule="linear", stacked=False)
    assert found.losses.tolist() == [by_hand(0.2, 8)]


@pytest.mark.usefixtures("unchecked")
def test_a_matched_step_has_the_length_times_multiplier_times_schedule() -> None:
    control = Matched(0.5)
    found = train(problem(), RULES["adam"], [Replica(0, 0, 2)], steps=4, schedule="linear", control=control, paths=True)
    start = torch.cat([p.flatten() for p in problem().build(0).parameters()]).float()
    assert found.paths is not None
    lengths = torch.cat([start[None], found.paths[0]]).diff(dim=0).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 0.75, 0.5, 0.25]))


def test_an_optimizer_that_asks_for_a_closure_is_given_one() -> None:
    found = train(problem(), partial(LBFGS, lr=0.05, max_iter=5), [Replica(0, 0)], steps=3)
    assert found.losses[0, -1] < found.losses[0, 0]


def test_dropout_draws_from_the_orders_seed_whatever_was_drawn_before() -> None:
    state = torch.get_rng_state()
    one = train(problem(build=dropping), RULES["adam"], [Replica(0, 0), Replica(0, 1)])
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    other = train(problem(build=dropping), RULES["adam"], [Replica(0, 1)])
    assert torch.equal(one.losses[1:], other.losses)


def test_from_its_divergence_on_a_run_is_at_infinity() -> None:
    losses = train(problem(), RULES["sgd"], [Replica(0, 0, 1e300)], stacked=False).losses
    assert torch.equal(losses[0, -6:], torch.full((6,), torch.inf, dtype=torch.float64))


def test_an_end_of_the_batches_is_told() -> None:
    with pytest.raises(ValueError, match="must not be more than the problem has batches for, found an end after 1"):
        train(problem(batches=one_batch), RULES["sgd"], [Replica(0, 0)])


def one_batch(seed: int):
    return iter([next(problem().batches(seed))])


def listed(seed: int):
    return [*islice(problem().batches(seed), 8)]


def test_batches_that_are_a_list_are_gone_through() -> None:
    own, same = problem(batches=listed), problem()
    for replicas in ([Replica(3, 5)], [Replica(3, 5), Replica(0, 1)] * 2):
        assert (
            train(own, RULES["adam"], replicas).losses.tolist() == train(same, RULES["adam"], replicas).losses.tolist()
        )


class Ascending(SGD):
    """SAM: a step up by the gradient that is there, the gradient there, and the step from where it was."""

    @torch.no_grad()
    def step(self, closure):
        (params,) = [group["params"] for group in self.param_groups]
        before = [p.clone() for p in params]
        torch._foreach_add_(params, [p.grad for p in params], alpha=0.5)
        with torch.enable_grad():
            loss = closure()
        torch._foreach_copy_(params, before)
        super().step()
        return loss


def test_a_rule_that_wants_the_gradient_before_its_closure_has_it_there() -> None:
    own = problem()
    model, batches = own.build(0), own.batches(0)
    for _ in range(3):
        x, y = next(batches)
        cross_entropy(model(x), y).backward()
        with torch.no_grad():
            before = [p.clone() for p in model.parameters()]
            for p in model.parameters():
                p.add_(p.grad, alpha=0.5)
                p.grad = None
        cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p, w in zip(model.parameters(), before, strict=True):
                p.copy_(w - 0.1 * p.grad)
                p.grad = None
    found = train(own, partial(Ascending, lr=0.1), [Replica(0, 0)], steps=3, points=1)
    assert float(found.losses) == pytest.approx(own.probe_loss(model), rel=1e-12)


class Polyak(SGD):
    """Calls its closure where no gradients are recorded, as AliG does."""

    @torch.no_grad()
    def step(self, closure):
        loss = closure()
        assert closure() is loss  # nothing has moved
        super().step()
        assert closure() < loss
        return loss


class Bare(SGD):
    """Knows of no closure."""

    def step(self):
        return super().step()


@pytest.mark.parametrize("rule", [Polyak, Bare])
def test_a_rule_may_call_its_closure_without_gradients_or_take_none(rule) -> None:
    assert_same_losses(partial(rule, lr=0.1), partial(SGD, lr=0.1))


def assert_same_losses(one, other) -> None:
    assert torch.equal(*(train(problem(), rule, [Replica(0, 0)], stacked=False).losses for rule in (one, other)))


def python_and_numpy(model, batch):
    return cross_entropy(model(batch[0]), batch[1]) * (1 + random.random() + np.random.rand())  # noqa: NPY002


def test_what_python_and_numpy_draw_is_of_the_orders_seed_too() -> None:
    own = problem(loss_fn=python_and_numpy)
    alone = train(own, RULES["adam"], [Replica(0, 1)], points=1)
    assert torch.equal(train(own, RULES["adam"], [Replica(0, 0), Replica(0, 1)], points=1).losses[1:], alone.losses)


class Averaging(SGD):
    """Is at another point when judged, as schedule-free optimizers are."""

    def __init__(self, params, **settings) -> None:
        super().__init__(params, **settings)
        self.at_average = True

    def eval(self) -> None:
        assert not self.at_average
        self.at_average = True

    def train(self) -> None:
        assert self.at_average
        self.at_average = False

    def step(self, closure=None):
        assert not self.at_average
        return super().step(closure)


def test_an_optimizer_with_modes_trains_in_one_and_is_judged_in_the_other() -> None:
    assert train(problem(), partial(Averaging, lr=0.1), [Replica(0, 0)], points=3).losses.isfinite().all()

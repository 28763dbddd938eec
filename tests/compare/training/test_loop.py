"""A replica's training is the training that one would write by hand."""

from functools import partial

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

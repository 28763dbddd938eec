"""A stack's step: each replica's own lr, and no rounding where there is nothing to scale."""

import torch
from tests.compare.training.nets import RULES, problem

from truestep.compare.training import Replica
from truestep.compare.training._stack import Stack
from truestep.compare.training._stack_steps import stepper
from truestep.compare.training._task import task_of

REST = {"steps": 4, "points": 1, "unit_loss": False, "paths": False, "control": None}


def moved(multipliers: list[float], step: int = 0) -> torch.Tensor:
    """Displacement of the first weight of replicas that all have gradient 1."""
    stack = Stack(problem(), [0] * len(multipliers))
    replicas = [Replica(0, 0, multiplier) for multiplier in multipliers]
    take = stepper(task_of(problem(), RULES["lion"], schedule="linear", **REST), replicas, stack)
    for p in stack.params.values():
        p.grad = torch.ones_like(p)
    before = stack.params["0.weight"].detach().clone()
    take(step)
    return (stack.params["0.weight"].detach() - before)[:, 0, 0]


def test_displacements_are_as_the_multipliers() -> None:
    found = moved([0.01, 1.0, 100.0])
    torch.testing.assert_close(found / found[1], torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64))


def test_the_schedule_takes_its_share() -> None:
    torch.testing.assert_close(moved([1.0, 3.0], step=3), moved([1.0, 3.0]) / 4)


def test_replicas_of_one_speed_take_the_optimizers_own_step_bit_by_bit() -> None:
    assert torch.equal(moved([2.0, 2.0])[0], moved([2.0])[0])

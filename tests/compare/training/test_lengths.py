"""In a stack, each replica's blocks are matched by themselves."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from truestep.compare import StepMatched
from truestep.compare.step_matched._blocks import SCOPES
from truestep.compare.step_matched._factor import NORMS
from truestep.compare.training._lengths import StackLengths

SHAPES = [(3, 2), (3,), (), (2, 2, 2)]
GROUPS = [0, 0, 1, 1]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.usefixtures("unchecked")
def test_a_replica_in_a_stack_goes_where_step_matched_takes_it_alone(norm: Any, scope: Any) -> None:
    before = [torch.randn(4, *shape, dtype=torch.float64) for shape in SHAPES]
    before[0][2] = 0  # a block of zeros, and a replica whose second weight does not move
    steps = [torch.randn_like(w) for w in before]
    steps[1][3] = 0
    wanted = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    stack = [w.clone() for w in before]
    lengths = StackLengths(stack, GROUPS, norm, scope)
    for w, u in zip(stack, steps, strict=True):
        w.add_(u)
    lengths.match_(before, wanted)
    for row in range(4):
        alone = [nn.Parameter(w[row].clone()) for w in before]
        optimizer = SGD([{"params": alone[:2]}, {"params": alone[2:]}], lr=1.0)
        StepMatched(optimizer, float(wanted[row]), norm=norm, scope=scope)
        for p, u in zip(alone, steps, strict=True):
            p.grad = -u[row]
        optimizer.step()
        for p, w in zip(alone, stack, strict=True):
            torch.testing.assert_close(w[row], p.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_lengths_of_a_shorter_step_are_those_of_that_step(norm: Any) -> None:
    before, step = torch.randn(2, 3, 5, dtype=torch.float64).unbind(0)
    factor = torch.tensor([1.0, 0.5, 0.01], dtype=torch.float64)
    long, short = (StackLengths([w], [0], norm, "tensor") for w in (before + step, before + factor[:, None] * step))
    if norm != "relative":  # whose floor is of the weights it starts with
        (found,) = long.lengths(long.extents([before]), factor)
        (expected,) = short.lengths(short.extents([before]), torch.ones(3, dtype=torch.float64))
        torch.testing.assert_close(found, expected)

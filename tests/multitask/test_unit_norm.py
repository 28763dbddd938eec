"""A loss over itself, task by task, is one gradient with four other methods at their optimum."""

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.multitask.seen import on_meta, seen
from torch import Tensor, nn
from torchjd.scalarization import IMTLL, UW, GeometricMean

from truestep.loss import unit_loss
from truestep.multitask._unit_norm import UnitNorm

SCALES = torch.tensor([1e-6, 1.0, 3e4], dtype=torch.float64)


def _imtl_l(losses: Tensor) -> Tensor:
    scalarizer = IMTLL(len(losses)).double()
    scalarizer.log_scale.data.copy_(-losses.detach().log())
    (slope,) = torch.autograd.grad(scalarizer(losses.detach()), scalarizer.log_scale)
    assert float(slope.abs().max()) < 1e-14  # its optimum
    return scalarizer(losses)


def _twice_uw(losses: Tensor) -> Tensor:
    scalarizer = UW(len(losses)).double()
    scalarizer.log_var.data.copy_(losses.detach().log())
    (slope,) = torch.autograd.grad(scalarizer(losses.detach()), scalarizer.log_var)
    assert float(slope.abs().max()) < 1e-14
    return 2 * scalarizer(losses)


def _geometric(losses: Tensor) -> Tensor:
    mean = GeometricMean()(losses)
    return mean * len(losses) / mean.detach()


FAMILY: dict[str, Callable[[Tensor], Tensor]] = {
    "unit": lambda losses: torch.stack([unit_loss(loss) for loss in losses]).sum(),
    "log": lambda losses: losses.log().sum(),
    "IMTL-L at its optimum": _imtl_l,
    "2 UW at its optimum": _twice_uw,
    "T/M of the geometric mean": _geometric,
}


def gradient(combine: Callable[[Tensor], Tensor], seed: int = 0) -> Tensor:
    """The whole gradient of a small net with three regression tasks whose units differ by 3e10."""
    generator = torch.Generator().manual_seed(seed)
    x, *y = (torch.randn(16, 4, generator=generator, dtype=torch.float64) for _ in range(4))
    sizes = [(6, 4), (4, 6), (4, 6), (4, 6)]
    trunk, *heads = (torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True) for size in sizes)
    z = torch.tanh(x @ trunk.T)
    losses = torch.stack([(z @ head.T - target).square().mean() for head, target in zip(heads, y, strict=True)])
    gradients = torch.autograd.grad(combine(losses * SCALES), [trunk, *heads])
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("member", FAMILY)
def test_the_family_is_one_gradient(member: str) -> None:
    for seed in range(5):
        expected = gradient(FAMILY[member], seed)
        off = (gradient(UnitNorm(), seed) - expected).norm() / expected.norm()
        assert float(off) < 1e-12


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=3))
def test_each_weighted_loss_is_one_in_any_unit(powers: list[float]) -> None:
    losses = 10.0 ** torch.tensor(powers, dtype=torch.float64)
    weighted = UnitNorm().weigh(seen(losses)) * losses
    torch.testing.assert_close(weighted, torch.ones(3, dtype=torch.float64), rtol=4e-16, atol=0)


@pytest.mark.parametrize("bad", [0.0, -0.0, -3.0, math.inf, -math.inf, math.nan, 5e-324])
def test_a_loss_without_an_inverse_weighs_nothing_and_touches_no_other(bad: float) -> None:
    assert UnitNorm().weigh(seen([2.0, bad])).tolist() == [0.5, 0.0]


def test_a_zero_loss_adds_nothing_where_the_rule_is_called() -> None:
    values = torch.tensor([4.0, 0.0], requires_grad=True)
    UnitNorm()(values).backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.25, 0.0]


def test_it_asks_for_positive_losses() -> None:
    assert UnitNorm().positive


def test_it_has_no_state_and_is_copied_and_pickled() -> None:
    rule = UnitNorm()
    rule.start(("a", "b"))
    assert not rule.state_dict()
    for other in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))):
        assert other.tasks == ("a", "b")
        assert other.weigh(seen([2.0, 5.0])).tolist() == [0.5, 0.2]


def test_nothing_is_read_on_the_host() -> None:
    assert UnitNorm().weigh(on_meta(seen([1.0, 2.0]))).is_meta


def descend(x: float, lr: float, curvature: float, least: float, steps: int) -> list[float]:
    """Positions under gradient descent on the rule's combination of the one loss c + h x²/2."""
    at, rule, path = torch.tensor([x], dtype=torch.float64, requires_grad=True), UnitNorm(), []
    for _ in range(steps):
        (slope,) = torch.autograd.grad(rule(least + curvature * at.square() / 2), at)
        at.data -= lr * slope
        path.append(float(at.detach()))
    return path


@pytest.mark.parametrize("curvature", [1e-6, 1.0, 1e6])
def test_with_no_irreducible_loss_descent_is_boole_s_map_whatever_the_curvature(curvature: float) -> None:
    x, eta = 0.7, 0.01
    for found in descend(x, eta, curvature, 0.0, 20):
        x -= 2 * eta / x
        assert found == pytest.approx(x, rel=1e-10)


@pytest.mark.parametrize("least", [1e-3, 1.0])
def test_the_minimum_is_stable_below_the_bound_and_a_cycle_of_two_above(least: float) -> None:
    curvature = 4.0
    below, above = (share * 2 * least / curvature for share in (0.9, 1.05))  # lr times curvature over 2c
    assert abs(descend(0.01, below, curvature, least, 300)[-1]) < 1e-12
    *_, x, y = descend(0.01, above, curvature, least, 600)
    assert x == pytest.approx(-y, rel=1e-9)
    assert x * x == pytest.approx(above - 2 * least / curvature, rel=1e-9)


def test_a_step_of_many_tasks_does_not_depend_on_their_units() -> None:
    plain = nn.Linear(3, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    ways = []
    for unit in (1.0, 1024.0):
        losses = plain(x).square().mean(0) * torch.tensor([unit, 1.0], dtype=torch.float64)
        ways.append(torch.autograd.grad(UnitNorm()(losses), plain.weight)[0])
    assert ways[0].equal(ways[1])

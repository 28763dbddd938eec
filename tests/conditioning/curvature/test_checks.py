"""The checks pass what is right to rounding, in float32 with kinks too, and see each thing that is wrong."""

import pytest
import torch
from tests.conditioning.curvature.nets import assert_same_state, batch_for, entropy, mlp, state_of
from torch import Tensor, nn

from truestep.conditioning.curvature._checks import asymmetry, finite_difference
from truestep.conditioning.curvature._ggn_product import GGN
from truestep.conditioning.curvature._hessian_product import Hessian
from truestep.conditioning.curvature._operator import AbstractCurvature
from truestep.conditioning.curvature._problem import problem


def difference(
    model: nn.Module, batch: object, kind: type[AbstractCurvature] = Hessian, loss_fn: object = entropy
) -> float:
    one = problem(model, batch, loss_fn)
    direction = [torch.randn_like(p) for p in one.tensors]
    return finite_difference(kind(one), direction)


@pytest.mark.parametrize("kind", [Hessian, GGN])
@pytest.mark.parametrize("act", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_right_derivatives_agree_and_leave_no_trace(
    kind: type[AbstractCurvature], act: type[nn.Module], dtype: torch.dtype
) -> None:
    model = mlp((6, 12, 12, 3), act=act, norm=True, dtype=dtype)
    model.insert(3, nn.Dropout(0.2))
    batch, before = batch_for(model, 100), state_of(model)
    torch.set_rng_state(before[-2])
    assert difference(model, batch, kind) < (1e-5 if dtype == torch.float32 else 1e-6)
    model_after = state_of(model)
    assert all(torch.equal(a, b) for a, b in zip(model_after[:-2], before[:-2], strict=True))


def test_a_loss_with_constants_in_float32_is_looked_at_in_float32() -> None:
    model = mlp((4, 3, 2), dtype=torch.float32)
    batch, fixed = batch_for(model), torch.randn(2, 2)
    before = [p.detach().clone() for p in model.parameters()]
    found = difference(model, batch, loss_fn=lambda m, b: (m(b[0]) @ fixed).square().mean())
    assert 1e-8 < found < 1e-2
    assert all(
        p.dtype == torch.float32 and torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)
    )


def test_a_loss_without_curvature_agrees_with_itself() -> None:
    model = nn.Linear(3, 1).double()
    assert difference(model, torch.randn(4, 3, dtype=torch.float64), loss_fn=lambda m, x: m(x).mean()) < 1e-3


class DetachedNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0).detach()) / x.std(0).detach()


@pytest.mark.parametrize("kind", [Hessian, GGN])
def test_detached_statistics_are_seen(kind: type[AbstractCurvature]) -> None:
    model = mlp((6, 5, 4, 3))
    model.insert(1, DetachedNorm())
    assert difference(model, batch_for(model), kind) > 0.05


def test_asymmetry_is_rounding_for_a_symmetric_matrix_and_about_one_for_none_of_any_size() -> None:
    found = []
    for n in (30, 300):
        a = torch.randn(n, n, dtype=torch.float64)
        u, v = torch.randn(2, n, dtype=torch.float64)
        s = a + a.T
        assert asymmetry(u, v, s @ u, s @ v) < 1e-13
        found += [asymmetry(*(p := torch.randn(2, n, dtype=torch.float64)), a @ p[0], a @ p[1]) for _ in range(50)]
    assert 0.5 < sum(found) / len(found) < 2


def test_nothing_is_not_asymmetric() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    assert asymmetry(zero + 1, zero + 2, zero, zero) == 0.0


def test_the_state_helper_sees_a_buffer_that_moved() -> None:
    model = mlp(norm=True)
    before = state_of(model)
    model(batch_for(model)[0])
    with pytest.raises(AssertionError):
        assert_same_state(model, before)

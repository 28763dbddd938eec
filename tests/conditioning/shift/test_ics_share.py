"""The share along the mean against the dense block of per-sample gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import assert_additive
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from truestep.conditioning.shift import ics_share


def inputs_and_deltas(rows: int = 30, features: int = 4, out: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, rows and deltas that have something to do with each other."""
    a = torch.randn(rows, features, dtype=torch.float64) + torch.linspace(0, 2, features)
    return a.mean(0), a, torch.randn(rows, out, dtype=torch.float64) * a[:, :1]


@pytest.mark.parametrize("bias", [True, False])
def test_the_share_is_that_of_the_dense_empirical_fisher_block(bias: bool) -> None:
    layer = nn.Linear(4, 3, bias=bias).double()
    x = torch.randn(20, 4, dtype=torch.float64) + 1
    y = torch.randint(3, (20,))

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(layer, params, (x,)), y)

    grads = vmap(grad(loss), (None, 0, 0))(dict(layer.named_parameters()), x, y)
    columns = grads["weight"]  # [samples, out, features]: with the gradient of the bias as one more feature
    columns = torch.cat([columns, grads["bias"][..., None]], -1) if bias else columns
    flat = columns.flatten(1)  # row-major: the block is S (x) A
    block = flat.T @ flat / 20
    mean = torch.cat([x.mean(0), torch.ones(1)]) if bias else x.mean(0)
    along = torch.kron(torch.eye(3, dtype=torch.float64), (mean / mean.norm())[:, None])
    expected = torch.trace(along.T @ block @ along) / torch.trace(block)
    logits = layer(x).detach().requires_grad_()
    nn.functional.cross_entropy(logits, y, reduction="sum").backward()
    assert logits.grad is not None
    torch.testing.assert_close(ics_share(x.mean(0), x, logits.grad, bias=bias).share, expected, rtol=1e-12, atol=0)


def test_the_hand_worked_share() -> None:
    mean, rows = torch.tensor([1.0], dtype=torch.float64), torch.tensor([[3.0], [-1.0]])
    sums = ics_share(mean, rows, torch.tensor([[1.0, 1.0], [2.0, 0.0]]))  # (3 + 1)^2 / 2 * 2 and (-1 + 1)^2 / 2 * 4
    assert (float(sums.along), float(sums.whole)) == (16.0, 28.0)  # 10 * 2 + 2 * 4


@given(power=st.integers(-10, 10))
def test_the_share_does_not_see_the_scale_of_the_loss(power: int) -> None:
    mean, rows, deltas = inputs_and_deltas()
    scaled = ics_share(mean, rows, deltas * 10.0**power).share
    torch.testing.assert_close(scaled, ics_share(mean, rows, deltas).share, rtol=1e-12, atol=0)


def test_the_sums_of_parts_add_up() -> None:
    mean, rows, deltas = inputs_and_deltas()
    parts = [ics_share(mean, rows[part], deltas[part]) for part in (slice(0, 1), slice(1, 17), slice(17, 30))]
    assert_additive(ics_share(mean, rows, deltas), parts)


def test_groups_are_added_up() -> None:
    made = [inputs_and_deltas() for _ in range(2)]
    together = ics_share(*(torch.stack(parts) for parts in zip(*made, strict=True)))
    assert_additive(together, [ics_share(*parts) for parts in made])


def test_inputs_that_never_change_have_all_curvature_along_the_mean() -> None:
    rows = torch.full((5, 3), 2.0)
    assert float(ics_share(rows.mean(0).double(), rows, torch.randn(5, 2)).share) == pytest.approx(1, abs=1e-12)


def test_centred_inputs_without_bias_have_none() -> None:
    _, rows, deltas = inputs_and_deltas()
    assert float(ics_share(torch.zeros(4, dtype=torch.float64), rows, deltas, bias=False).share) == 0


def test_no_gradient_gives_no_share() -> None:
    mean, rows, deltas = inputs_and_deltas()
    assert bool(ics_share(mean, rows, 0 * deltas).share.isnan())

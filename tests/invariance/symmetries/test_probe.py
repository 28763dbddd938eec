"""A row holds the products of its own weights and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from truestep.invariance.symmetries._probe import Probe


def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def probed(model: nn.Module, *batches: Tensor) -> Probe:
    return Probe(model, dict(model.named_parameters()), batches, loss_fn, 0)


def test_a_row_at_the_own_weights_has_autograd_s_products() -> None:
    model, x = nn.Linear(3, 2).double(), torch.randn(4, 3, dtype=torch.float64)
    row = probed(model, x).own(0)
    assert row is not None
    pairs = list(zip(model.parameters(), torch.autograd.grad(loss_fn(model, x), list(model.parameters())), strict=True))
    expected = torch.stack([(w * g).sum() for w, g in pairs]).detach()
    torch.testing.assert_close(row.wg, expected, rtol=1e-13, atol=0)
    sizes = torch.stack([w.norm() * g.norm() for w, g in pairs]).detach()
    torch.testing.assert_close(row.size, sizes, rtol=1e-13, atol=0)


def test_a_scaled_row_is_the_row_of_scaled_weights() -> None:
    model, x = nn.Linear(3, 2, bias=False).double(), torch.randn(4, 3, dtype=torch.float64)
    probe = probed(model, x)
    plain, scaled = probe.row(3), probe.row(3, torch.tensor([1.0], dtype=torch.float64), 4.0)
    assert plain is not None
    assert scaled is not None
    torch.testing.assert_close(scaled.wg, 16 * plain.wg)  # the loss is quadratic in w


def test_batches_go_round_and_each_row_has_weights_of_its_own() -> None:
    model, (a, b) = nn.Linear(3, 2), torch.randn(2, 4, 3)
    probe = probed(model, a, b)
    weights = [(probe.row(at), model.weight.detach().clone())[1] for at in (0, 1, 2, 0)]
    assert torch.equal(weights[0], weights[3])
    assert not torch.equal(weights[0], weights[2])
    assert probe.passes == 4


def test_a_row_that_is_not_finite_is_none() -> None:
    assert probed(nn.Linear(3, 2), torch.full((4, 3), torch.inf)).row(0) is None


def test_units_and_dead_units_are_those_of_the_last_row() -> None:
    model, x = nn.Linear(3, 2, bias=False), torch.randn(4, 3)
    probe = Probe(model, dict(model.named_parameters()), [x], lambda model, x: model(x)[:, 0].square().mean(), 0)
    row = probe.own(0)
    assert row is not None
    torch.testing.assert_close(probe.units(0)[:, 0].sum(), row.wg[0])
    assert probe.dead(0).tolist() == [False, True]


def test_sparse_gradients_unused_and_complex_weights_are_taken() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3, sparse=True)
            self.phase = nn.Parameter(torch.randn(3, dtype=torch.complex64))
            self.unused = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return (self.table(x) * self.phase).abs()

    row = probed(Odd(), torch.tensor([[0, 1, 1]])).own(0)
    assert row is not None
    torch.testing.assert_close(row.wg[0], row.wg[2])  # both are homogeneous of the same degree
    assert row.wg[1] == row.size[1] == 0

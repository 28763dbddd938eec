"""Blocks of single layers: the GGN's own entries, their factors, and the coordinates they are seen in."""

import pytest
import torch
from torch import nn

from truestep.conditioning import ggn_product
from truestep.lab._blocks import (
    ACTIVATIONS,
    CLASSES,
    Block,
    Loss,
    blocks,
    centred_digits,
    descent,
    mean_loss,
    net,
    principal_digits,
    standardized,
    train,
    with_one,
)

WIDTHS = (64, 5, 4, CLASSES)


def made(activation: str = "logistic", samples: int = 20) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = centred_digits("cpu", samples, generator)
    return net(activation, WIDTHS, generator, "cpu"), x, y


@pytest.mark.parametrize("loss", ["softmax", "squared"])
def test_a_block_times_a_vector_is_the_product_by_double_backward(loss: Loss) -> None:
    model, x, y = made()
    for block, name in zip(blocks(model, x, loss), ("0", "2", "4"), strict=True):
        v = {n: torch.randn_like(p) if n.startswith(f"{name}.") else 0 * p for n, p in model.named_parameters()}
        expected = ggn_product(model, (x, y), lambda m, batch: mean_loss(loss, m(batch[0]), batch[1]), v)
        stacked = torch.cat([v[f"{name}.weight"].T, v[f"{name}.bias"][None]])  # [inputs, out]: columns of (W, b)
        found = (block.ggn @ stacked.flatten()).view_as(stacked)
        torch.testing.assert_close(found[:-1].T, expected[f"{name}.weight"], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(found[-1], expected[f"{name}.bias"], rtol=1e-10, atol=1e-14)


def test_where_all_samples_curve_alike_the_block_is_the_kronecker_product() -> None:
    block = blocks(*made()[:2], "squared")[-1]
    a = with_one(block.a)
    torch.testing.assert_close(block.s, torch.eye(CLASSES, dtype=torch.float64))
    torch.testing.assert_close(block.ggn, torch.kron(a.T @ a / len(a), block.s))
    assert block.centred == pytest.approx(block.shift.largest)


def test_standardized_inputs_have_mean_0_and_covariance_1() -> None:
    a = standardized(torch.randn(50, 3, dtype=torch.float64).cumsum(1) + 4)
    torch.testing.assert_close(a.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(a.T @ a / 50, torch.eye(3, dtype=torch.float64))
    assert Block(a, torch.ones(50, 1, 1, dtype=torch.float64)).centred == pytest.approx(1.0)


def test_inputs_are_centred_and_principal_ones_uncorrelated() -> None:
    x, y = centred_digits("cpu", 30, torch.Generator().manual_seed(0))
    assert float(x.mean(0).abs().max()) < 1e-14
    assert float(x.square().mean()) == pytest.approx(1.0)
    z, labels = principal_digits("cpu", 30, 4, torch.Generator().manual_seed(0))
    square = z.T @ z
    assert float((square - square.diagonal().diag()).abs().max()) < 1e-12 * float(square.max())
    assert (z.shape, float(z.square().mean())) == ((30, 4), pytest.approx(1.0))
    assert torch.equal(y, labels)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_training_goes_down(activation: str) -> None:
    model, x, y = made(activation)
    start = mean_loss("squared", model(x), y).item()
    train(model, x, y, "squared", 5)
    assert mean_loss("squared", model(x), y).item() < start


def test_descent_tells_the_loss_before_each_step() -> None:
    model, x, y = made()
    start = mean_loss("softmax", model(x), y).item()
    losses = descent(model, x, y, 0.01, 3)
    assert losses[0] == start > losses[1] > losses[2]

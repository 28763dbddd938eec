"""Gradient centering is the step of a layer with centred inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from truestep.conditioning._layers import grouped_rows
from truestep.conditioning.transforms._gradient_centering import GradientCentering, centered, row_sum

CONVS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": 2, "padding": (1, 2), "dilation": (1, 2), "groups": 2},
    {"kernel_size": 2, "padding": "same", "padding_mode": "reflect"},
]


def test_both_halves_make_a_descent_direction_and_the_first_alone_does_not() -> None:
    weight, bias, mean = torch.tensor([[[1.5, 0.0]]]), torch.ones(1, 1), torch.tensor([[3.0, 0.0]])
    new_weight, new_bias = centered(weight, bias, mean)
    assert float((new_weight * weight).sum() + (bias * bias).sum()) == -1.25
    assert float((new_weight * weight).sum() + (new_bias * bias).sum()) == 3.25


def test_the_inner_product_with_the_gradient_is_a_sum_of_squares() -> None:
    weight, bias, mean = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 4), (2, 3), (2, 4)))
    new_weight, new_bias = centered(weight, bias, mean)
    product = (new_weight * weight).sum() + (new_bias * bias).sum()
    torch.testing.assert_close(product, new_weight.square().sum() + bias.square().sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("settings", CONVS, ids=str)
def test_patches_need_not_be_laid_out_for_their_sum(settings: dict[str, Any]) -> None:
    conv, x = nn.Conv2d(4, 4, **settings).double(), torch.randn(3, 4, 6, 7, dtype=torch.float64)
    rows = grouped_rows(conv, x)
    found = row_sum(conv, x, rows.shape[1])
    torch.testing.assert_close(found.a, rows.sum(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.mean, rows.mean(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(row_sum(conv, x[0], 1).a, grouped_rows(conv, x[0]).sum(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_formats_are_summed_in_float32(dtype: torch.dtype) -> None:
    x = torch.full((3000, 1), 100.0, dtype=dtype)
    assert float(row_sum(nn.Linear(1, 1), x, 3000).mean) == 100


class Recoded(nn.Module):
    """The same function of `x`, of a layer that is given `x - m`."""

    def __init__(self, layer: nn.Linear, m: Tensor) -> None:
        super().__init__()
        self.inner, self.m = nn.Linear(layer.in_features, layer.out_features, dtype=layer.weight.dtype), m
        with torch.no_grad():
            self.inner.weight.copy_(layer.weight)
            self.inner.bias.copy_(layer.bias + layer.weight @ m)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x - self.m)


def test_fifty_steps_are_those_of_the_network_with_centred_inputs() -> None:
    x, y = torch.randn(20, 5, dtype=torch.float64) + 3, torch.randn(20, 3, dtype=torch.float64)
    plain = nn.Linear(5, 3, dtype=torch.float64)
    twin = Recoded(plain, x.mean(0))
    optimizers = [SGD(model.parameters(), lr=0.2) for model in (plain, twin)]
    GradientCentering(plain, optimizers[0])
    for _ in range(50):
        for model, optimizer in zip((plain, twin), optimizers, strict=True):
            optimizer.zero_grad()
            (model(x).tanh() - y).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(plain(x), twin(x), rtol=0, atol=1e-12)


def test_shifting_the_inputs_changes_no_step() -> None:
    x, y = torch.randn(20, 2, 5, 5, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    outputs = []
    for shift in (0.0, 10.0):
        torch.manual_seed(1)
        conv = nn.Conv2d(2, 4, 3, groups=2, dtype=torch.float64)
        with torch.no_grad():
            conv.bias.sub_(shift * conv.weight.flatten(1).sum(1))  # the same function
        optimizer = SGD(conv.parameters(), lr=0.1)
        GradientCentering(conv, optimizer)
        for _ in range(10):
            optimizer.zero_grad()
            (conv(x + shift).tanh().mean((1, 2, 3)) - y).square().sum().backward()
            optimizer.step()
        outputs.append(conv(x + shift))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-11)


def test_it_is_not_gradient_centralization() -> None:
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=1.0)
    GradientCentering(model, optimizer)
    before = model.weight.detach().clone()
    x = torch.randn(8, 3)
    model(x - x.mean(0)).square().sum().backward()  # centred inputs: nothing to do, though the rows' means are not 0
    optimizer.step()
    assert model.weight.grad is not None
    torch.testing.assert_close(before - model.weight, model.weight.grad)


def test_layers_without_bias_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2))
    assert GradientCentering(model, SGD(model.parameters())).layers == ("1",)

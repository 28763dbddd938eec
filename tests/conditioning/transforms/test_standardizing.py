"""Standardizing is gradient descent in standardised coordinates, and the gradient times the inverse of A-bar."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from truestep.conditioning._layers import grouped_rows
from truestep.conditioning.transforms._standardizing import Standardizing, row_moments, standardized

F64 = torch.float64


def problem(outputs: int) -> tuple[nn.Linear, Tensor, Tensor]:
    x = torch.randn(40, 5, dtype=F64) @ torch.randn(5, 5, dtype=F64) + 2
    return nn.Linear(5, outputs, dtype=F64), x, torch.randn(40, outputs, dtype=F64)


def root(matrix: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**power) @ vectors.T


@pytest.mark.parametrize("outputs", [3, 7])
def test_fifty_steps_are_gradient_descent_in_standardised_coordinates(outputs: int) -> None:
    layer, x, y = problem(outputs)
    mean, sigma = x.mean(0), (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)
    weight = (layer.weight @ root(sigma, 0.5)).detach().requires_grad_()
    bias = (layer.bias + layer.weight @ mean).detach().requires_grad_()
    z = (x - mean) @ root(sigma, -0.5)
    optimizer = SGD(layer.parameters(), lr=0.3)
    Standardizing(layer, optimizer, damping=0.0)
    for _ in range(50):
        optimizer.zero_grad()
        (layer(x).tanh() - y).square().mean().backward()
        optimizer.step()
        gw, gb = torch.autograd.grad(((z @ weight.T + bias).tanh() - y).square().mean(), (weight, bias))
        weight, bias = ((p - 0.3 * g).detach().requires_grad_() for p, g in ((weight, gw), (bias, gb)))
    torch.testing.assert_close(layer(x), z @ weight.T + bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("outputs", [3, 7])
def test_it_is_the_gradient_times_the_inverse_of_a_bar(outputs: int) -> None:
    layer, x, y = problem(outputs)
    (layer(x) - y).square().mean().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    rows = torch.cat([x, torch.ones(len(x), 1, dtype=F64)], 1)
    joined = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1)
    inverse = torch.linalg.inv(rows.T @ rows / len(x)).contiguous()
    kron = torch.kron(inverse, torch.eye(outputs, dtype=F64)) @ joined.T.flatten()  # columns stacked: A-bar (x) I
    moments = row_moments(layer, x, len(x)).mean_and_spread(centered=True)
    weight, bias = standardized(layer.weight.grad[None], layer.bias.grad[None], *moments)
    assert bias is not None
    found = torch.cat([weight[0], bias[0][:, None]], 1)
    torch.testing.assert_close(found, joined @ inverse, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.T.flatten(), kron, rtol=0, atol=1e-12)


def test_the_blocks_of_the_lecture_have_the_identity_in_their_corner() -> None:
    """[R R']^-1 = A-bar (x) I; with a 1 in the corner, as printed, the shapes do not even agree."""
    _, x, _ = problem(3)
    mean, sigma, eye = x.mean(0)[:, None], (x - x.mean(0)).T @ (x - x.mean(0)) / len(x), torch.eye(3, dtype=F64)
    zero = torch.zeros(15, 3, dtype=F64)
    inverse_r = torch.cat(
        [
            torch.cat([torch.kron(root(sigma, 0.5), eye), zero], 1),
            torch.cat([torch.kron(mean.T, eye), eye], 1),
        ]
    )
    rows = torch.cat([x, torch.ones(len(x), 1, dtype=F64)], 1)
    torch.testing.assert_close(inverse_r.T @ inverse_r, torch.kron(rows.T @ rows / len(x), eye), rtol=0, atol=1e-12)


@pytest.mark.parametrize("matrix", ["full", "diagonal"])
@pytest.mark.parametrize("bias", [True, False])
def test_recoding_the_inputs_changes_no_step(matrix: Any, bias: bool) -> None:
    """Affine for the full form, one scale and shift a feature for the diagonal one, no shift without a bias."""
    layer, x, y = problem(3)
    layer = nn.Linear(5, 3, bias=bias, dtype=F64)
    mix = (
        torch.randn(5, 5, dtype=F64)
        if matrix == "full"
        else torch.diag(torch.tensor([1e-3, 0.1, 1, 10, 1e3], dtype=F64))
    )
    shift = torch.randn(5, dtype=F64) if bias else torch.zeros(5, dtype=F64)
    twin = nn.Linear(5, 3, bias=bias, dtype=F64)
    with torch.no_grad():
        twin.weight.copy_(layer.weight @ torch.linalg.inv(mix))
        if bias:
            twin.bias.copy_(layer.bias - twin.weight @ shift)
    outputs = []
    for model, inputs in ((layer, x), (twin, x @ mix.T + shift)):
        optimizer = SGD(model.parameters(), lr=0.2)
        Standardizing(model, optimizer, matrix=matrix, damping=0.0)
        for _ in range(10):
            optimizer.zero_grad()
            (model(inputs).tanh() - y).square().mean().backward()
            optimizer.step()
        outputs.append(model(inputs))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("matrix", ["full", "diagonal"])
def test_a_constant_input_is_left_where_it_is_without_damping_and_goes_nowhere_with_it(matrix: Any) -> None:
    x = torch.cat([torch.randn(30, 3), torch.full((30, 1), 0.3), torch.zeros(30, 1)], 1)
    for damping in (0.0, 0.01):
        model = nn.Linear(5, 2)
        before = model.weight.detach().clone()
        optimizer = SGD(model.parameters(), lr=0.1)
        Standardizing(model, optimizer, matrix=matrix, damping=damping)
        model(x).square().mean().backward()
        optimizer.step()
        moved = (model.weight - before).abs().amax(0)
        assert bool((moved[:3] > 1e-4).all())
        assert bool((moved[3:] < 1e-5).all())


def test_damping_is_in_units_of_the_mean_variance() -> None:
    _, x, _ = problem(3)
    layer, weight, bias = nn.Linear(5, 3, dtype=F64), torch.randn(1, 3, 5, dtype=F64), torch.randn(1, 3, dtype=F64)
    for matrix in ("full", "diagonal"):
        mean, spread = row_moments(layer, x, len(x), matrix).mean_and_spread(centered=True)  # type: ignore[arg-type]
        added = 0.5 * x.var(0, correction=0).mean()
        damped = spread + added * (torch.eye(5, dtype=F64) if matrix == "full" else 1)
        for found, expected in zip(
            standardized(weight, bias, mean, spread, 0.5), standardized(weight, bias, mean, damped), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_mean_far_from_zero_costs_float32_no_digits() -> None:
    x = torch.randn(2000, 2) * 0.01 + 100
    layer, exact = nn.Linear(2, 1), x.double().T.cov(correction=0)
    _, spread = row_moments(layer, x, 2000).mean_and_spread(centered=True)
    torch.testing.assert_close(spread[0], exact, rtol=1e-5, atol=1e-10)
    halves = row_moments(layer, x[:7], 7) + row_moments(layer, x[7:], 1993)
    torch.testing.assert_close(halves.mean_and_spread(centered=True)[1][0], exact, rtol=1e-5, atol=1e-10)
    _, variance = row_moments(layer, x, 2000, "diagonal").mean_and_spread(centered=True)
    torch.testing.assert_close(variance[0], exact.diagonal(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("settings", [{"padding": 1}, {"groups": 2, "stride": 2, "padding": (1, 0)}], ids=str)
def test_moments_of_a_convolution_are_those_of_its_patches(settings: dict[str, Any]) -> None:
    conv, x = nn.Conv2d(2, 4, 3, **settings).double(), torch.randn(3, 2, 6, 7, dtype=F64) + 1
    rows = grouped_rows(conv, x)
    _, full = row_moments(conv, x, rows.shape[1]).mean_and_spread(centered=True)
    _, diagonal = row_moments(conv, x, rows.shape[1], "diagonal").mean_and_spread(centered=True)
    for group, patches in enumerate(rows):
        torch.testing.assert_close(full[group], patches.T.cov(correction=0), rtol=0, atol=1e-12)
    torch.testing.assert_close(diagonal, full.diagonal(dim1=1, dim2=2), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "message"),
    [({"matrix": "block"}, '`matrix` must be "full" or "diagonal"'), ({"damping": -1}, "`damping` must be 0 or a pos")],
    ids=str,
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=message):
        Standardizing(model, SGD(model.parameters()), **settings)


def moved(model: nn.Module, inputs: list[Tensor], **settings: Any) -> list[Tensor]:
    """How far the weights went in steps of size .01 on the squares."""
    before, optimizer = [p.detach().clone() for p in model.parameters()], SGD(model.parameters(), lr=0.01)
    Standardizing(model, optimizer, **settings)
    for x in inputs:
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    return [(p.detach() - old).abs() for p, old in zip(model.parameters(), before, strict=True)]


def constant(kind: str) -> tuple[nn.Module, list[Tensor]]:
    if kind == "convolution":
        return nn.Conv2d(2, 3, 3), [torch.full((8, 2, 6, 6), 0.7)] * 2
    if kind == "far from zero":
        return nn.Linear(3, 2, dtype=F64), [1e3 + 1e-5 * torch.randn(32, 3, dtype=F64) for _ in range(3)]
    return nn.Linear(5, 4), [(0.3 + torch.rand(5)).expand(100, 5)] * 2


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize("matrix", ["full", "diagonal"])
@pytest.mark.parametrize("kind", ["linear", "convolution", "far from zero"])
def test_a_layer_of_inputs_that_never_change_steps_with_its_bias_alone(kind: str, matrix: Any, damping: float) -> None:
    weight, bias = moved(*constant(kind), matrix=matrix, damping=damping, ema=0.9)
    assert not bool(weight.any())
    assert bool((bias > 0).any() and (bias < 100).all())


@pytest.mark.parametrize("matrix", ["full", "diagonal"])
def test_a_saturated_layer_does_not_blow_the_next_one_up(matrix: Any) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 4))
    nn.init.constant_(model[0].bias, 17.0)
    assert max(float(x.max()) for x in moved(model, [torch.randn(64, 5)], matrix=matrix)) < 0.1


@pytest.mark.parametrize("matrix", ["full", "diagonal"])
def test_a_constant_far_larger_than_the_others_neither_moves_nor_damps_them(matrix: Any) -> None:
    small = 1e-2 * torch.randn(200, 2)
    model = nn.Linear(3, 2)
    weight, bias = moved(model, [torch.cat([small, torch.full((200, 1), 900.3)], 1)], matrix=matrix)
    assert bool((weight[:, :2] > 1e-3).any())
    assert bool((900 * weight[:, 2] < 0.2 * bias).all())  # of the output


def test_products_that_have_no_factor_leave_the_diagonal() -> None:
    """Covariances of rounding alone: not positive definite, and the damping too small to mend them."""
    weight, bias, mean = torch.ones(1, 1, 2), torch.zeros(1, 1), torch.zeros(1, 2, dtype=F64)
    spread = torch.tensor([[[1.0, 1.1], [1.1, 1.0]]], dtype=F64)
    step, _ = standardized(weight, bias, mean, spread, 0.01)
    torch.testing.assert_close(step, torch.full((1, 1, 2), 1 / 1.01), rtol=1e-6, atol=0)


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize("matrix", ["full", "diagonal"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_activation_that_is_not_finite_is_seen_in_the_step(value: float, matrix: Any, damping: float) -> None:
    x = torch.randn(8, 3)
    x[0, 1] = value
    weight, _ = moved(nn.Linear(3, 2), [x], matrix=matrix, damping=damping)
    assert bool(weight[:, 1].isnan().all())


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize("matrix", ["full", "diagonal"])
def test_a_gradient_that_is_not_finite_is_seen_in_a_layer_without_variance(matrix: Any, damping: float) -> None:
    mean, spread = torch.ones(1, 2, dtype=F64), torch.zeros(1, 2, *([2] if matrix == "full" else []), dtype=F64)
    step, _ = standardized(torch.full((1, 3, 2), torch.nan), torch.ones(1, 3), mean, spread, damping)
    assert bool(step.isnan().all())

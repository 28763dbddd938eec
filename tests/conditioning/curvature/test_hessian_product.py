"""Hessian products against the dense Hessian, also where batches have statistics; and torch's other way, which errs."""

import pytest
import torch
from tests.conditioning.curvature.nets import (
    assert_same_state,
    batch_for,
    dense_hessian,
    entropy,
    flat,
    mlp,
    named,
    state_of,
)
from torch import nn

from truestep.conditioning.curvature import hessian_product


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_it_is_the_dense_hessian_times_the_vector(norm: bool, train: bool) -> None:
    model = mlp(norm=norm).train(train)
    batch = batch_for(model)
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    found = hessian_product(model, batch, entropy, named(model, v))
    expected = dense_hessian(model.train(train), batch) @ v
    torch.testing.assert_close(flat(list(found.values())), expected, rtol=1e-12, atol=1e-14)


def test_everything_is_left_as_it_was_with_dropout_and_batch_statistics() -> None:
    model = mlp(norm=True)
    model.insert(2, nn.Dropout(0.5))
    model[0].weight.grad = torch.ones_like(model[0].weight)
    batch, before = batch_for(model), state_of(model)
    hessian_product(model, batch, entropy, named(model, torch.ones(sum(p.numel() for p in model.parameters()))))
    assert_same_state(model, before)


def test_losses_with_weights_count_by_their_weight() -> None:
    model = mlp((2, 2, 1))
    x, keep = torch.randn(6, 2, dtype=torch.float64), torch.tensor([1.0, 1, 0, 1, 0, 1])
    v = named(model, torch.randn(9, dtype=torch.float64))
    found = hessian_product(model, x, lambda m, x: (m(x).square()[:, 0], keep), v)
    expected = hessian_product(model, x[keep > 0], lambda m, x: m(x).square().mean(), v)
    torch.testing.assert_close(found, expected)


def test_attention_has_second_derivatives_here() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(2, 3, 4)
    v = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    u = {name: torch.randn_like(p) for name, p in model.named_parameters()}

    def loss_fn(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x, x, x, need_weights=False)[0].square().mean()

    hv, hu = (hessian_product(model, x, loss_fn, w) for w in (v, u))
    left, right = (sum((a[n] * b[n]).sum() for n in a) for a, b in ((u, hv), (v, hu)))
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_forward_over_reverse_errs_at_the_gain_of_a_train_mode_batch_norm_and_this_does_not() -> None:
    torch.manual_seed(0)
    bn = nn.BatchNorm1d(3, track_running_stats=False).double()
    x = torch.randn(8, 3, dtype=torch.float64)
    weights = {"w": torch.randn(3, 3, dtype=torch.float64), "gain": torch.rand(3, dtype=torch.float64) + 0.5}
    v = {name: torch.randn_like(p) for name, p in weights.items()}

    def loss_of(p: dict[str, torch.Tensor]) -> torch.Tensor:
        out = torch.nn.functional.batch_norm(x @ p["w"], None, None, p["gain"], None, training=True)
        return out.tanh().square().mean()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.gain = nn.Parameter(weights["w"]), nn.Parameter(weights["gain"])

    def loss_fn(model: Net, _: object) -> torch.Tensor:
        return loss_of({"w": model.w, "gain": model.gain})

    h = 1e-5
    shifted = [{n: p + s * h * v[n] for n, p in weights.items()} for s in (1, -1)]
    up, down = (torch.func.grad(loss_of)(w) for w in shifted)
    expected = {n: (up[n] - down[n]) / (2 * h) for n in weights}
    _, forward = torch.func.jvp(torch.func.jacrev(loss_of), (weights,), (v,))
    found = hessian_product(Net(), None, loss_fn, v)
    assert bn.training
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    assert float((forward["gain"] - expected["gain"]).norm() / expected["gain"].norm()) > 0.01  # torch 2.13's


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_said() -> None:
    model = mlp((2, 2, 1))
    x, v = torch.randn(3, 2, dtype=torch.float64), named(model, torch.ones(9, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"differs in \['0.bias'\]"):
        hessian_product(model, x, lambda m, x: m(x).mean(), {n: t for n, t in v.items() if n != "0.bias"})
    with pytest.raises(ValueError, match=r"shape \(2,\) at 0.bias, found \(3,\)"):
        hessian_product(model, x, lambda m, x: m(x).mean(), v | {"0.bias": torch.ones(3)})
    with pytest.raises(ValueError, match="finite loss, found inf"):
        hessian_product(model, x, lambda m, x: m(x).mean() + torch.inf, v)
    with pytest.raises(ValueError, match="detached"):
        hessian_product(model, x, lambda m, x: m(x).detach().mean(), v)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        hessian_product(model.requires_grad_(False), x, lambda m, x: m(x).mean(), v)

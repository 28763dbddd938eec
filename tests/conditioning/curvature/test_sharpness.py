"""Sharpness is the dense matrix's largest eigenvalue, in few products, in the mode that the model is in."""

from typing import Any

import pytest
import torch
from tests.conditioning.curvature.nets import (
    assert_same_state,
    batch_for,
    dense_ggn,
    dense_hessian,
    entropy,
    flat,
    mlp,
    state_of,
)
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from truestep.conditioning.curvature import preconditioner, sharpness
from truestep.conditioning.curvature._hessian_product import Hessian

WIDE = (64, 20, 20, 10)  # 2010 parameters with norms


@pytest.mark.parametrize(("norm", "sizes"), [(True, WIDE), (False, (32, 12, 12, 10))])
def test_of_2000_parameters_it_is_the_dense_hessian_s_to_1e_6_in_40_products(
    norm: bool, sizes: tuple[int, ...]
) -> None:
    model = mlp(sizes, norm=norm)
    batch = batch_for(model, 50)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = state_of(model)
    found = sharpness(model, batch, entropy)
    assert_same_state(model, before)
    expected = torch.linalg.eigvalsh(dense_hessian(model, batch))[-1]
    assert abs(found.value / float(expected) - 1) < 1e-6
    assert found.products <= 40
    assert found.train_mode
    assert found.asymmetry < 1e-10
    assert found.difference < 1e-6


def test_the_ggn_s_first_ten_are_the_dense_ones() -> None:
    model = mlp((12, 8, 6), norm=True)
    batch = batch_for(model, 40)
    found = sharpness(model, batch, entropy, k=10, matrix="ggn")
    expected = torch.linalg.eigvalsh(dense_ggn(model, batch)).flip(0)[:10]
    torch.testing.assert_close(found.eigenvalues, expected, rtol=1e-6, atol=1e-9)


def test_eigenvalues_that_repeat_are_told_as_often_and_each_product_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Linear(30, 10).double()
    x, y, target = torch.randn(50, 30).double(), torch.randn(50, 10).double(), torch.randint(0, 10, (50,))
    x1 = torch.cat([x, torch.ones(50, 1)], 1)
    top = torch.linalg.eigvalsh(x1.T @ x1 / 50).flip(0)
    calls = 0
    right = Hessian.product

    def counted(self: Hessian, vectors: Any) -> list[Tensor]:
        nonlocal calls
        calls += 1
        return right(self, vectors)

    monkeypatch.setattr(Hessian, "product", counted)
    found = sharpness(model, (x, y), lambda m, b: mse_loss(m(b[0]), b[1]), k=5)
    torch.testing.assert_close(found.eigenvalues, top[:1].expand(5) / 5, rtol=1e-6, atol=0)  # 2/10: one for each output
    assert found.products == calls
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    found = sharpness(model, (x, target), entropy, k=10, matrix="ggn")
    expected = torch.cat([top[:1].expand(9), top[1:2]]) / 10  # softmax: p(1 - p) + p^2 for all but the mean of logits
    torch.testing.assert_close(found.eigenvalues, expected, rtol=1e-6, atol=0)


def test_where_all_images_miss_the_largest_eigenvalue_zero_it_is_found() -> None:
    model = nn.Linear(20, 1)
    assert sharpness(model, None, lambda m, _: -m.weight.square().sum()).value == pytest.approx(0.0, abs=1e-6)
    model = nn.Linear(20, 1, bias=False)
    assert sharpness(model, None, lambda m, _: -m.weight.square().sum()).value == pytest.approx(-2.0)


class Draws(nn.Module):
    """Noise in the dtype of what comes in: other numbers in float64."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "asserts":
            assert x.dtype == torch.float32
            return x
        if self.kind == "normal":
            return x + torch.randn_like(x)
        return x * (torch.rand(len(x), 1, dtype=x.dtype) > 0.3) / 0.7


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.detach().exp()


@pytest.mark.parametrize("kind", ["normal", "paths", "asserts"])
@pytest.mark.filterwarnings("ignore:the loss draws random numbers")
def test_a_model_that_is_another_one_in_float64_is_checked_in_its_own_dtype(kind: str) -> None:
    model = mlp((8, 16, 4), dtype=torch.float32)
    model.insert(2, Draws(kind))
    batch = batch_for(model, 64)
    torch.manual_seed(0)
    before = state_of(model)
    found = sharpness(model, batch, entropy)
    assert_same_state(model, before)
    assert found.difference < 0.01
    model.insert(3, Gate())
    model[-1].requires_grad_(False)  # most of the curvature, which knows nothing of the gate
    with pytest.raises(ValueError, match="not confirm"):
        sharpness(model, batch, entropy)


def test_negative_curvature_of_a_larger_size_is_not_it() -> None:
    found = sharpness(nn.Linear(2, 1).double(), None, lambda m, _: m.weight[0, 0] ** 2 - 5 * m.weight[0, 1] ** 2, k=3)
    torch.testing.assert_close(found.eigenvalues, torch.tensor([2.0, 0.0, -10.0], dtype=torch.float64))


def test_a_linear_loss_has_none() -> None:
    found = sharpness(nn.Linear(30, 1), torch.randn(4, 30), lambda m, x: m(x).mean())
    assert found.value == 0.0


def of_adam(steps: int = 5) -> tuple[nn.Sequential, Any, torch.optim.Optimizer]:
    model = mlp((6, 5, 3))
    batch = batch_for(model)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        adam.zero_grad()
        entropy(model, batch).backward()
        adam.step()
    return model, batch, adam


def test_preconditioned_it_is_that_of_p_to_the_minus_half_h_p_to_the_minus_half() -> None:
    model, batch, adam = of_adam()
    p = preconditioner(adam, dict(model.named_parameters()))
    root = flat(list(p.values())).rsqrt()
    expected = torch.linalg.eigvalsh(root[:, None] * dense_hessian(model, batch) * root)[-1]
    for given in (adam, p):
        found = sharpness(model, batch, entropy, preconditioner=given)
        torch.testing.assert_close(found.eigenvalues[0], expected, rtol=1e-6, atol=0)
        assert found.preconditioned


def test_a_rescaled_preconditioner_rescales_it_and_infinity_takes_a_parameter_out() -> None:
    model, batch, _ = of_adam(0)
    ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    plain = sharpness(model, batch, entropy).value
    assert sharpness(model, batch, entropy, preconditioner={n: 4 * p for n, p in ones.items()}).value == pytest.approx(
        plain / 4
    )
    held = ones | {"0.weight": ones["0.weight"] * torch.inf, "0.bias": ones["0.bias"] * torch.inf}
    alone = sharpness(model[2], (model[:2](batch[0]).detach(), batch[1]), entropy).value
    assert sharpness(model, batch, entropy, preconditioner=held).value == pytest.approx(alone)


@pytest.mark.parametrize("train", [True, False])
def test_modes_far_apart_are_warned_of_with_both_values(train: bool) -> None:
    model = mlp((10, 8, 3), norm=True).train(train)
    model[1].running_var.fill_(0.01)
    batch = batch_for(model, 40)
    values = {}
    for mode in (True, False):
        values[mode] = float(torch.linalg.eigvalsh(dense_hessian(model.train(mode), batch))[-1])
        model[1].running_var.fill_(0.01)
        model[1].running_mean.zero_()
    with pytest.warns(RuntimeWarning, match="in train mode, .* in eval mode") as said:
        found = sharpness(model.train(train), batch, entropy)
    assert found.warnings == (str(said[0].message),)
    assert found.train_mode is train is model.training
    assert found.value == pytest.approx(values[train], rel=1e-6)
    assert found.other_mode == pytest.approx(values[not train], rel=0.2)


def test_where_modes_do_not_matter_one_product_says_so() -> None:
    model = mlp()
    found = sharpness(model, batch_for(model), entropy)
    assert found.other_mode == found.value
    assert found.warnings == ()


def test_dropout_is_one_draw_and_the_same_again() -> None:
    model = mlp()
    model.insert(2, nn.Dropout(0.3))
    batch = batch_for(model)
    torch.manual_seed(3)
    with pytest.warns(RuntimeWarning, match="one draw"):
        first, again = (sharpness(model, batch, entropy) for _ in range(2))
    assert first.value == again.value
    assert "one draw" in str(first)


def test_a_single_sample_is_not_compared_with_train_mode_and_mixed_modes_are_told() -> None:
    model = mlp((4, 3, 2), norm=True).eval()
    model[2].train()
    with pytest.warns(RuntimeWarning):
        found = sharpness(model, batch_for(model, 1), entropy)
    assert found.other_mode is None
    assert "the model is in eval mode, but 2 in train mode" in found.warnings[0]
    assert "does not run in train mode" in found.warnings[1]


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class Reversed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Reversal.apply(x)


class Frozen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0).detach()


@pytest.mark.parametrize(("layer", "said"), [(Reversed, "not symmetric|not confirm"), (Frozen, "not confirm")])
def test_a_gradient_that_is_none_is_refused(layer: type[nn.Module], said: str) -> None:
    model = mlp()
    model.insert(2, layer())
    batch, before = batch_for(model), state_of(model)
    with pytest.raises(ValueError, match=said):
        sharpness(model, batch, entropy)
    assert_same_state(model, before)


def test_a_matrix_that_is_not_symmetric_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Hessian.change
    monkeypatch.setattr(Hessian, "change", lambda self, v: [1.01 * (x := right(self, v))[0], *x[1:]])
    model = mlp()
    with pytest.raises(ValueError, match="not symmetric"):
        sharpness(model, batch_for(model), entropy)


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_said() -> None:
    model = mlp((2, 2, 2))
    batch = batch_for(model)
    with pytest.raises(ValueError, match='`matrix` must be "hessian" or "ggn", found \'fisher\''):
        sharpness(model, batch, entropy, matrix="fisher")
    with pytest.raises(ValueError, match="`k` must be from 1 to the number of parameters, 12; found 13"):
        sharpness(model, batch, entropy, k=13)
    zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match="`preconditioner` must be positive"):
        sharpness(model, batch, entropy, preconditioner=zeros)
    with pytest.raises(ValueError, match=r"float32 or float64, found torch.bfloat16 \(0.weight\)"):
        sharpness(model.bfloat16(), batch, entropy)

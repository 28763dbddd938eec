"""Gradients at a shared weight are autograd's, and so is the norm that needs no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from truestep.multitask.balancing import _at_weight
from truestep.multitask.balancing._at_weight import LinearBelow, casts, shared_weights, used, weight_gradients

SHAPES = {"2-D": (4, 9), "3-D": (2, 2, 9), "4-D": (1, 2, 2, 9), "one row": (1, 9), "as many rows as inputs": (9, 9)}


def layer(bias: bool = True, dtype: torch.dtype = torch.float64) -> nn.Linear:
    return nn.Linear(9, 5, bias=bias, dtype=dtype)


def squared(outputs: list[Tensor], seeds: list[Tensor], weight: Tensor) -> Tensor:
    (g,) = torch.autograd.grad(outputs, [weight], seeds, retain_graph=True)
    return g.double().square().sum()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_the_square_is_that_of_autograds_gradient(shape: tuple[int, ...], bias: bool) -> None:
    shared = layer(bias)
    for input_is_trained in (False, True):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=input_is_trained)
        z = shared(x).tanh()
        seed = torch.randn_like(z)
        linear = LinearBelow.find([z], shared.weight)
        assert linear is not None
        torch.testing.assert_close(linear.square([z], [seed]), squared([z], [seed], shared.weight), rtol=1e-12, atol=0)


@settings(max_examples=25)
@given(st.integers(-10, 10), st.integers(-10, 10))
def test_the_square_has_the_scale_of_inputs_and_gradients(inputs: int, outputs: int) -> None:
    shared = layer()
    z = shared(10.0**inputs * torch.randn(4, 9, dtype=torch.float64))
    seed = 10.0**outputs * torch.randn_like(z)
    linear = LinearBelow.find([z], shared.weight)
    torch.testing.assert_close(linear.square([z], [seed]), squared([z], [seed], shared.weight), rtol=1e-12, atol=0)


def test_several_features_above_one_layer_add_their_gradients_and_none_of_them_is_zero() -> None:
    shared = layer()
    hidden = shared(torch.randn(4, 9, dtype=torch.float64))
    z = [hidden.tanh(), hidden[:, :2].sin()]
    seeds = [torch.randn_like(x) for x in z]
    linear = LinearBelow.find(z, shared.weight)
    torch.testing.assert_close(linear.square(z, seeds), squared(z, seeds, shared.weight), rtol=1e-12, atol=0)
    assert linear.square([], []).item() == 0.0
    elsewhere = torch.ones(3, requires_grad=True) * 2
    assert linear.square([elsewhere], [torch.ones(3)]).item() == 0.0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("outside", [True, False])
def test_under_autocast_the_square_is_that_of_the_rows_in_float32(
    bias: bool, dtype: torch.dtype, outside: bool
) -> None:
    shared = layer(bias, torch.float32)
    x = 100.0 * torch.randn(4, 9)
    with torch.autocast("cpu", dtype):
        z = shared(x)
        seed = torch.randn(4, 5).to(dtype)
        linear = LinearBelow.find([z], shared.weight)
        found = None if outside else linear.square([z], [seed])
    found = linear.square([z], [seed]) if found is None else found
    expected = (seed.double().T @ x.to(dtype).double()).square().sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_inputs_whose_products_overflow_float16_are_squared_all_the_same() -> None:
    shared = layer(bias=False, dtype=torch.float16)
    x = torch.full((2, 9), 300.0, dtype=torch.float16)  # 9 * 300**2 is no float16
    z = shared(x)
    found = LinearBelow.find([z], shared.weight).square([z], [torch.ones_like(z)])
    assert found.item() == 5 * 9 * 600.0**2


def nowhere(shared: nn.Linear, x: Tensor) -> Tensor:
    return layer()(x)


def times_the_plain_weight(shared: nn.Linear, x: Tensor) -> Tensor:
    return x[:, :5] @ shared.weight


def with_a_factor(shared: nn.Linear, x: Tensor) -> Tensor:
    return torch.addmm(shared.bias, x, shared.weight.T, alpha=0.5)


def weight_first(shared: nn.Linear, x: Tensor) -> Tensor:
    return shared.weight @ x.T


def doubled(shared: nn.Linear, x: Tensor) -> Tensor:
    return nn.functional.linear(x, 2 * shared.weight)


@pytest.mark.parametrize("use", [nowhere, times_the_plain_weight, with_a_factor, weight_first, doubled])
def test_no_other_use_of_a_weight_is_taken_for_a_linear_layer(use: Callable[..., Tensor]) -> None:
    shared = layer()
    assert LinearBelow.find([use(shared, torch.randn(4, 9, dtype=torch.float64))], shared.weight) is None


def test_more_rows_than_inputs_are_left_to_the_gradient_itself() -> None:
    shared = layer()
    assert LinearBelow.find([shared(torch.randn(2, 5, 9, dtype=torch.float64))], shared.weight) is None


def test_a_layer_far_below_the_features_is_not_looked_for() -> None:
    shared = layer()
    z = shared(torch.randn(4, 9, dtype=torch.float64))
    for _ in range(_at_weight.FAR + 1):
        z = z.sin()
    assert LinearBelow.find([z], shared.weight) is None
    assert used([z], [shared.weight]) == 1


def twice(x: Tensor, w: Tensor) -> Tensor:
    return x @ w + x @ w


USES: dict[str, tuple[int, Callable[[Tensor, Tensor], Any]]] = {
    "not at all": (0, lambda w, x: x * 2),
    "detached": (0, lambda w, x: x @ w.detach().T),
    "once": (1, lambda w, x: x @ w.T),
    "as it is": (1, lambda w, x: w * 2),
    "in two outputs": (2, lambda w, x: [x @ w.T, w.sum()]),
    "one after the other": (2, lambda w, x: x @ w.T @ w),
    "with itself": (2, lambda w, x: w * w),
    "transposed once and used twice": (2, lambda w, x: twice(x, w.t())),
    "made into something else that is used twice": (1, lambda w, x: twice(x, w.view(9, 5))),
    "copied once and used twice": (2, lambda w, x: twice(x.float(), w.float().t())),
    "as it is and transposed": (2, lambda w, x: (x @ w.T).sum() + w.sum()),
}


@pytest.mark.parametrize(("times", "use"), USES.values(), ids=USES)
def test_uses_of_a_weight_are_counted(times: int, use: Callable[[Tensor, Tensor], Any]) -> None:
    weight = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    made = use(weight, torch.randn(4, 9, dtype=torch.float64, requires_grad=True))
    assert used(made if isinstance(made, list) else [made], [weight]) == times


def test_uses_of_several_weights_add_up_and_other_weights_do_not_count() -> None:
    net = nn.Sequential(layer(), nn.Tanh(), nn.Linear(5, 5, dtype=torch.float64))
    z = net(torch.randn(4, 9, dtype=torch.float64))
    assert used([z], [net[0].weight, net[2].weight]) == 2
    assert used([z], [net[2].weight]) == used([z], [net[2].bias]) == 1
    assert used([z, torch.ones(3)], [layer().weight]) == 0


def test_a_change_of_number_format_is_seen_wherever_it_stands() -> None:
    shared, x = layer(dtype=torch.float32), torch.randn(4, 9)
    assert not casts([shared(x).tanh(), torch.ones(1)])
    assert casts([torch.ones(1), shared(x).double().tanh()])
    with torch.autocast("cpu", torch.float16):
        assert casts([shared(x)])


@pytest.mark.parametrize("seeded", [True, False])
def test_weight_gradients_are_autograds_in_one_vector_and_zero_for_a_weight_without_part(seeded: bool) -> None:
    shared, other = layer(), nn.Linear(2, 2, dtype=torch.float64)
    z = shared(torch.randn(4, 9, dtype=torch.float64)).tanh()
    outputs = [z, z.sum(1)] if seeded else [z.square().sum()]
    seeds = [torch.randn_like(x) for x in outputs] if seeded else [None]
    weights = [shared.weight, other.weight, shared.bias]
    found = weight_gradients(outputs, seeds, weights)
    g = torch.autograd.grad(outputs, [shared.weight, shared.bias], seeds)
    assert found.equal(torch.cat([g[0].flatten(), torch.zeros(4, dtype=torch.float64), g[1]]))
    assert shared.weight.grad is None
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_weight_gradients_are_float32_at_least(dtype: torch.dtype, wide: torch.dtype) -> None:
    weight = torch.randn(3, dtype=dtype, requires_grad=True)
    assert weight_gradients([weight * 2], [torch.ones(3, dtype=dtype)], [weight]).dtype == wide


def test_a_layer_is_named_by_a_module_a_tensor_or_several() -> None:
    shared, block, bare = layer(), nn.Sequential(layer(), nn.Tanh()), nn.LayerNorm(3, elementwise_affine=False)
    assert [id(w) for w in shared_weights(shared)] == [id(shared.weight)]
    assert [id(w) for w in shared_weights(shared.bias)] == [id(shared.bias)]
    assert [id(w) for w in shared_weights(block)] == [id(w) for w in block.parameters()]
    assert [id(w) for w in shared_weights(iter([shared.weight, shared.bias]))] == [id(w) for w in shared.parameters()]
    for nothing in (bare, nn.Tanh(), []):
        with pytest.raises(ValueError, match="`layer` has no parameter: give the last shared layer, its weight or"):
            shared_weights(nothing)


def test_a_sharded_weight_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_at_weight, "is_distributed", lambda x: x.dim() == 1)
    with pytest.raises(ValueError, match=r"`layer` is sharded over ranks: .* or measure at the features"):
        shared_weights(layer().parameters())
    assert [w.dim() for w in shared_weights(layer())] == [2]

"""Quasi-diagonal steps: one matrix inverse worked out by hand, recodings of the inputs, and two nets that are one."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from truestep.conditioning.transforms._fisher import exact_deltas, unit_fisher
from truestep.conditioning.transforms._natural_step import diagonal as no_bias
from truestep.conditioning.transforms._natural_step import quasi_diagonal

Layers = list[tuple[Tensor, Tensor]]
Rule = Callable[..., tuple[Tensor, Tensor]]


def problem(out: int = 3, features: int = 4, samples: int = 12) -> tuple[Tensor, ...]:
    """Gradients and Fisher entries of random inputs and deltas; the Fisher's deltas are not the gradient's."""
    a = torch.randn(samples, features, dtype=torch.float64)
    delta, other = torch.randn(2, samples, out, dtype=torch.float64)
    return recoded(a, delta, other, 1.0, 0.0, 1.0)


def recoded(a: Tensor, delta: Tensor, other: Tensor, scale: float, shift: float, gain: float) -> tuple[Tensor, ...]:
    """The same where inputs are scaled and shifted, and the outputs, so the deltas, scaled."""
    a, delta, other = scale * a + shift, gain * delta, gain * other
    fisher, n = unit_fisher(a, other, len(a)), len(a)
    return delta.T @ a / n, delta.sum(0) / n, fisher.bias / n, fisher.cross / n, fisher.weight / n


def test_a_unit_of_one_input_takes_the_natural_gradient() -> None:
    weight, bias, f00, f0j, fjj = problem(features=1)
    step, offset = quasi_diagonal(weight, bias, f00, f0j, fjj)
    for unit in range(3):
        matrix = torch.stack([torch.stack([f00[unit], f0j[unit, 0]]), torch.stack([f0j[unit, 0], fjj[unit, 0]])])
        expected = torch.linalg.solve(matrix, torch.stack([bias[unit], weight[unit, 0]]))
        torch.testing.assert_close(torch.stack([offset[unit], step[unit, 0]]), expected, rtol=1e-12, atol=1e-14)


@given(st.floats(0.01, 100), st.floats(-3, 3), st.floats(0.01, 100))
def test_the_layers_output_moves_alike_however_inputs_and_outputs_are_scaled_and_shifted(
    scale: float, shift: float, gain: float
) -> None:
    a = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    delta, other = torch.randn(2, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step, offset = quasi_diagonal(*recoded(a, delta, other, 1.0, 0.0, 1.0))
    twin, twin_offset = quasi_diagonal(*recoded(a, delta, other, scale, shift, gain))
    moved, twin_moved = a @ step.T + offset, (scale * a + shift) @ twin.T + twin_offset
    size = float(moved.abs().max())
    torch.testing.assert_close(gain * twin_moved, moved, rtol=0, atol=size * 1e-11 * (1 + (shift / scale) ** 2))


def test_it_goes_downhill() -> None:
    for _ in range(20):
        weight, bias, *fisher = problem()
        step, offset = quasi_diagonal(weight, bias, *fisher)
        assert float((weight * step).sum() + bias @ offset) > 0


def test_without_correlation_of_bias_and_weight_it_divides_by_the_diagonal() -> None:
    weight, bias, f00, f0j, fjj = problem()
    step, offset = quasi_diagonal(weight, bias, f00, torch.zeros_like(f0j), fjj)
    torch.testing.assert_close(step, weight / fjj, rtol=1e-14, atol=0)
    torch.testing.assert_close(offset, bias / f00, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, -300.0])
def test_the_weight_of_an_input_that_never_changes_stays_where_it_is(constant: float, dtype: torch.dtype) -> None:
    a, delta = torch.randn(50, 4, dtype=dtype), torch.randn(50, 3, dtype=dtype)
    without = quasi_diagonal(*recoded(a[:, :3], delta, delta, 1.0, 0.0, 1.0))
    a[:, 3] = constant
    weight, bias, *fisher = recoded(a, delta, delta, 1.0, 0.0, 1.0)
    weight[:, 3] += 1e-3  # a penalty in the loss, say: nothing must be divided by 0
    step, offset = quasi_diagonal(weight, bias, *fisher)
    assert bool((step[:, 3] == 0).all())
    torch.testing.assert_close((step[:, :3], offset), without)


def test_a_unit_that_no_gradient_reaches_stays_where_it_is() -> None:
    weight, bias, *fisher = problem()
    for entry in (weight, bias, *fisher):
        entry[1] = 0
    step, offset = quasi_diagonal(weight, bias, *fisher)
    assert bool((step[1] == 0).all())
    assert offset[1] == 0
    assert bool((step[0] != 0).all())


@pytest.mark.parametrize("where", range(5))
def test_what_is_not_finite_is_seen_and_not_taken_for_a_dead_input(where: int) -> None:
    given = problem()
    given[where][1] = torch.nan
    step, offset = quasi_diagonal(*given)
    assert not bool(torch.cat([step[1], offset[1:2]]).isfinite().all())
    assert bool(torch.cat([step[0], offset[0:1]]).isfinite().all())


def test_damping_is_relative_to_the_fisher() -> None:
    weight, bias, *fisher = problem()
    step, offset = quasi_diagonal(weight, bias, *fisher, damping=0.1)
    smaller, smaller_offset = quasi_diagonal(weight, bias, *[1e6 * entry for entry in fisher], damping=0.1)
    torch.testing.assert_close((1e6 * smaller, 1e6 * smaller_offset), (step, offset), rtol=1e-12, atol=0)


def test_under_large_damping_it_is_the_gradient_over_the_damping() -> None:
    weight, bias, f00, f0j, fjj = problem()
    mean = (f00.sum() + fjj.sum()) / (f00.numel() + fjj.numel())
    step, offset = quasi_diagonal(weight, bias, f00, f0j, fjj, damping=1e9)
    torch.testing.assert_close((1e9 * mean * step, 1e9 * mean * offset), (weight, bias), rtol=0, atol=1e-7)


def test_the_gradients_and_entries_it_is_given_are_left_as_they_are() -> None:
    given = problem()
    before = [x.clone() for x in given]
    quasi_diagonal(*given, damping=0.1)
    assert all(map(torch.equal, given, before))


def plain(weight: Tensor, bias: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return weight, bias


def diagonal(weight: Tensor, bias: Tensor, f00: Tensor, f0j: Tensor, fjj: Tensor) -> tuple[Tensor, Tensor]:
    return quasi_diagonal(weight, bias, f00, torch.zeros_like(f0j), fjj)


def logits_after(layers: Layers, act: Callable[[Tensor], Tensor], rule: Rule, lr: float) -> Tensor:
    """Logits of a net of `layers` after 40 full-batch steps of `rule`, with the exact Fisher."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, dtype=torch.float64, generator=generator)
    y = torch.randint(4, (60,), generator=generator)
    layers = [(w.clone().requires_grad_(), b.clone().requires_grad_()) for w, b in layers]
    for _ in range(40):
        inputs, outputs = forward(layers, act, x)
        gradients = torch.autograd.grad(cross_entropy(outputs[-1], y), sum(layers, ()), retain_graph=True)
        classes = torch.stack([*exact_deltas(outputs[-1])])
        deltas = torch.autograd.grad(outputs[-1], outputs, classes, is_grads_batched=True)
        for i, layer in enumerate(layers):
            fisher = unit_fisher(inputs[i].repeat(4, 1), deltas[i].flatten(0, 1), 60)
            entries = (fisher.bias / 60, fisher.cross / 60, fisher.weight / 60)
            for p, step in zip(layer, rule(gradients[2 * i], gradients[2 * i + 1], *entries), strict=True):
                p.data -= lr * step
    return forward(layers, act, x)[1][-1].detach()


def forward(layers: Layers, act: Callable[[Tensor], Tensor], x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    inputs, outputs = [x], []
    for w, b in layers:
        outputs.append(inputs[-1] @ w.T + b)
        inputs.append(act(outputs[-1]))
    return inputs, outputs


def logistic_net() -> Layers:
    sizes = ((8, 6), (7, 8), (4, 7))
    draw = torch.randn
    return [(1.5 * draw(o, i, dtype=torch.float64) / i**0.5, 0.3 * draw(o, dtype=torch.float64)) for o, i in sizes]


def tanh_twin(layers: Layers) -> Layers:
    """The same function with tanh: logistic(s) is (1 + tanh(s/2))/2."""
    twin = list[tuple[Tensor, Tensor]]()
    for i, (w, b) in enumerate(layers):
        weight, bias = (w, b) if i == 0 else (w / 2, b + w.sum(1) / 2)
        twin.append((weight, bias) if i == len(layers) - 1 else (weight / 2, bias / 2))
    return twin


@pytest.mark.parametrize(("rule", "lr", "least", "most"), [(quasi_diagonal, 0.05, 0.0, 1e-9), (plain, 1.0, 0.5, 50.0)])
def test_logistic_and_tanh_twins_stay_one_function_for_40_steps_where_sgd_parts_them(
    rule: Rule, lr: float, least: float, most: float
) -> None:
    net = logistic_net()
    logistic = logits_after(net, torch.sigmoid, rule, lr)
    tanh = logits_after(tanh_twin(net), torch.tanh, rule, lr)
    assert least <= float((logistic - tanh).abs().max()) <= most


def test_the_diagonal_alone_does_not_keep_the_twins_together() -> None:
    net = logistic_net()
    logistic = logits_after(net, torch.sigmoid, diagonal, 0.05)
    assert float((logistic - logits_after(tanh_twin(net), torch.tanh, diagonal, 0.05)).abs().max()) > 0.5


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-40])
def test_a_layer_without_fisher_or_with_one_that_underflowed_stays_where_it_is(size: float, damping: float) -> None:
    weight, bias = torch.full((2, 3), 1e-20), torch.full((2,), 1e-20)
    entries = torch.full((2,), size), torch.full((2, 3), size), torch.full((2, 3), size)
    step, offset = quasi_diagonal(weight, bias, *entries, damping)
    assert not bool(torch.cat([step.flatten(), offset, no_bias(weight, entries[2], damping).flatten()]).any())


@pytest.mark.parametrize("rule", ["quasi", "diagonal"])
def test_a_gradient_that_is_not_finite_is_seen_without_fisher(rule: str) -> None:
    weight, zeros = torch.full((2, 3), torch.nan), torch.zeros(2, 3)
    if rule == "quasi":
        found = quasi_diagonal(weight, torch.ones(2), torch.zeros(2), zeros, zeros, 0.01)[0]
    else:
        found = no_bias(weight, zeros, 0.01)
    assert bool(found.isnan().all())

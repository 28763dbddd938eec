"""K-FAC's factors and direction: the dense natural gradient, both invariances, and what damping does to them."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from truestep.lab._digits import digits, hidden_weights
from truestep.lab._kfac import Layer, layers_of, precondition
from truestep.lab._normalized import batch_norm_net

DATA = digits(dtype=torch.float64)


def some_layers(scale: float = 1.0) -> tuple[nn.Sequential, dict[str, Layer]]:
    model = batch_norm_net(torch.Generator().manual_seed(0), "cpu")
    with torch.no_grad():
        for w in hidden_weights(model).values():
            w.mul_(scale)
    return model, layers_of(model, DATA, torch.arange(128), seed=7)


def random_layer() -> Layer:
    generator = torch.Generator().manual_seed(3)
    g, a, s = (torch.randn(*n, generator=generator, dtype=torch.float64) for n in ((2, 3), (9, 3), (9, 2)))
    return Layer(g, a.T @ a / 9, s.T @ s / 9)


def test_the_direction_solves_the_kronecker_system() -> None:
    layer = random_layer()
    fisher = torch.kron(layer.s, layer.a)  # rows of [out, in] one behind another
    expected = torch.linalg.solve(fisher, layer.gradient.flatten()).view(2, 3)
    torch.testing.assert_close(precondition(layer, 0.0, 0.0), expected)


def test_it_is_invariant_to_linear_maps_of_inputs_and_outputs() -> None:
    layer, generator = random_layer(), torch.Generator().manual_seed(4)
    m, n = (torch.randn(k, k, generator=generator, dtype=torch.float64) for k in (3, 2))
    moved = Layer(n @ layer.gradient @ m.T, m @ layer.a @ m.T, n @ layer.s @ n.T)  # inputs M a, outputs' gradients N s
    expected = torch.linalg.solve(n.T, precondition(layer, 0.0, 0.0)) @ torch.linalg.inv(m)
    torch.testing.assert_close(precondition(moved, 0.0, 0.0), expected)


def test_damping_as_a_number_tends_to_the_gradient_over_it() -> None:
    layer = random_layer()
    torch.testing.assert_close(1e9 * precondition(layer, 0.0, 1e9), layer.gradient, rtol=1e-3, atol=0)


def test_the_factors_are_those_of_the_samples() -> None:
    model, layers = some_layers()
    assert [layer.gradient.shape for layer in layers.values()] == [(32, 64), (32, 32)]
    x = DATA.train_x[:128]
    torch.testing.assert_close(layers["0.weight"].a, x.T @ x / 128)
    cross_entropy(model(x), DATA.train_y[:128]).backward()
    for name, w in hidden_weights(model).items():
        assert w.grad is not None
        torch.testing.assert_close(layers[name].gradient, w.grad)


def test_the_output_s_factor_is_the_mean_over_samples_of_drawn_gradients() -> None:
    model, layers = some_layers()
    hidden = model[:3](DATA.train_x[:128])
    s = model[3](hidden)  # what the second layer gives, [128, 32]
    logits = model[4:](s)
    labels = torch.multinomial(logits.detach().softmax(1), 1, generator=torch.Generator().manual_seed(7))[:, 0]
    (each,) = torch.autograd.grad(cross_entropy(logits, labels, reduction="sum"), s)
    torch.testing.assert_close(layers["3.weight"].s, torch.einsum("ni,nj->ij", each, each) / 128)
    torch.testing.assert_close(layers["3.weight"].a, torch.einsum("ni,nj->ij", hidden, hidden).detach() / 128)


@pytest.mark.parametrize("scale", [3.0, 0.1])
def test_rescaled_weights_rescale_the_direction_if_damping_is_relative(scale: float) -> None:
    (_, plain), (_, other) = some_layers(), some_layers(scale)
    for name, layer in plain.items():
        expected = precondition(layer, 1e-2, 0.0)
        torch.testing.assert_close(precondition(other[name], 1e-2, 0.0), scale * expected, rtol=1e-8, atol=1e-10)
        assert not torch.allclose(
            precondition(other[name], 0.0, 1e-3), scale * precondition(layer, 0.0, 1e-3), rtol=0.1
        )

"""K-FAC for the hidden layers of the lab's MLP: the factors of a batch, and the direction they make of a gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.lab._digits import Digits, hidden_weights


class Layer(NamedTuple):
    """What a layer's step is made of."""

    gradient: Float64[Tensor, "out in"]
    a: Float64[Tensor, "in in"]  # second moment of its inputs
    s: Float64[Tensor, "out out"]  # ... of the gradients at its outputs, labels drawn from the model


def precondition(layer: Layer, relative: float, absolute: float) -> Float64[Tensor, "out in"]:
    r"""K-FAC's direction :math:`(S + \sqrt\lambda/\pi)^{-1} G (A + \pi\sqrt\lambda)^{-1}`.

    Args:
        layer: Gradient and factors.
        relative: Added to A and S in units of their mean eigenvalue.
        absolute: Martens and Grosse's lambda, shared out by the mean eigenvalues' ratio, pi squared.
    """
    mean_a, mean_s = layer.a.diagonal().mean(), layer.s.diagonal().mean()
    pi = (mean_a / mean_s).sqrt()
    damped_a = damped(layer.a, relative * mean_a + absolute**0.5 * pi)
    damped_s = damped(layer.s, relative * mean_s + absolute**0.5 / pi)
    return torch.linalg.solve(damped_a, torch.linalg.solve(damped_s, layer.gradient).T).T


def damped(matrix: Float64[Tensor, "n n"], damping: Tensor) -> Float64[Tensor, "n n"]:
    """The matrix, and `damping` more on its diagonal."""
    return matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def layers_of(model: nn.Sequential, data: Digits, index: Int[Tensor, " n"], seed: int) -> dict[str, Layer]:
    """Gradients and factors of the hidden layers on the images in `index`; `seed` draws the labels."""
    weights, n = hidden_weights(model), len(index)
    inputs: dict[str, Tensor] = {}
    at_outputs: dict[str, Tensor] = {}
    x = data.train_x[index]
    for i, module in enumerate(model):
        name, before = f"{i}.weight", x
        x = module(x)
        if name in weights:
            inputs[name], at_outputs[name] = before.detach(), x
    true = torch.autograd.grad(cross_entropy(x, data.train_y[index]), list(weights.values()), retain_graph=True)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(x.detach().softmax(1).cpu(), 1, generator=generator)[:, 0].to(x.device)
    each = torch.autograd.grad(cross_entropy(x, drawn, reduction="sum"), list(at_outputs.values()))
    return {
        name: Layer(gradient, inputs[name].T @ inputs[name] / n, s.T @ s / n)
        for name, gradient, s in zip(weights, true, each, strict=True)
    }

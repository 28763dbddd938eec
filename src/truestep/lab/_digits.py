"""The lab's common ground: scikit-learn's handwritten digits, a small normalised MLP, a watched loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.core import Gram, gram
from truestep.core._extra import lab_extra

PIXELS: Final = 64
CLASSES: Final = 10
TRAIN: Final = 1200  # of 1797 images; the other 597 are for testing
SPLIT_SEED: Final = 0  # every claim and every seed sees the same split


@dataclass(frozen=True, slots=True)
class Digits:
    """Handwritten digits, 8 x 8 grey values from 0 to 1, cut once into a training and a test part."""

    train_x: Float[Tensor, "train 64"]
    train_y: Int[Tensor, " train"]
    test_x: Float[Tensor, "test 64"]
    test_y: Int[Tensor, " test"]


def digits(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Digits:
    """Load the digits; nothing is downloaded.

    Example:
        >>> data = digits()
        >>> data.train_x.shape, data.test_x.shape
        (torch.Size([1200, 64]), torch.Size([597, 64]))
    """
    with lab_extra("the lab"):
        from sklearn.datasets import load_digits
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    x = (torch.as_tensor(images) / 16)[order].to(device, dtype)  # [1797, 64]
    y = torch.as_tensor(labels)[order].to(device)  # [1797]
    return Digits(x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:])


def mlp(
    widths: tuple[int, ...],
    norm: Callable[[int], nn.Module],
    generator: torch.Generator,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """An MLP for the digits: a linear layer without bias, `norm` and ReLU for each width, then a linear head.

    Weights are normal with variance 1 / fan-in, so a unit's squared norm starts near 1.

    Args:
        widths: Units of each hidden layer.
        norm: Builds the normaliser of a layer from its width.
        generator: Draws the weights, on the CPU.
        device: Where the model lives.
        dtype: Its number format.

    Example:
        >>> mlp((32,), nn.LayerNorm, torch.Generator())(torch.rand(5, 64)).shape
        torch.Size([5, 10])
    """
    sizes = (PIXELS, *widths, CLASSES)
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs, bias=False)
        weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / inputs**0.5
        linear.weight = nn.Parameter(weight.to(torch.float32))
        modules += [linear, norm(outputs), nn.ReLU()]
    return nn.Sequential(*modules[:-2]).to(device, dtype)  # the head has neither norm nor ReLU


def hidden_weights(model: nn.Sequential) -> dict[str, Tensor]:
    """The weights that feed a normaliser, by name: all linear layers but the head.

    Example:
        >>> list(hidden_weights(mlp((32, 32), nn.LayerNorm, torch.Generator())))
        ['0.weight', '3.weight']
    """
    linears = {f"{i}.weight": m.weight for i, m in enumerate(model) if isinstance(m, nn.Linear)}
    return dict(list(linears.items())[:-1])


def descend(
    model: nn.Sequential,
    optimizer: torch.optim.Optimizer,
    data: Digits,
    *,
    batch_size: int,
    steps: int,
    generator: torch.Generator,
) -> Iterator[dict[str, Gram]]:
    """Train on random batches, and after each step yield the Gram of every hidden layer, per unit.

    A Gram holds the weights from before the step, the gradient, and the displacement that was taken.

    Args:
        model: What `mlp` built.
        optimizer: Any optimizer over some of its parameters.
        data: The digits, in the model's number format and on its device.
        batch_size: Images per step.
        steps: Number of steps.
        generator: Draws the batches, on the CPU.
    """
    weights = hidden_weights(model)
    for _ in range(steps):
        index = torch.randint(len(data.train_y), (batch_size,), generator=generator)
        loss = cross_entropy(model(data.train_x[index]), data.train_y[index])
        optimizer.zero_grad()
        loss.backward()
        before = {name: w.detach().clone() for name, w in weights.items()}
        optimizer.step()
        yield {name: unit_gram(before[name], w) for name, w in weights.items()}


def unit_gram(before: Tensor, weight: Tensor) -> Gram:
    """The Gram of each output unit of a linear layer (its row), from the weight's own gradient."""
    assert weight.grad is not None
    return gram(before, weight.grad, weight.detach() - before, unit_dim=0)


@torch.no_grad()
def accuracy(model: nn.Sequential, data: Digits) -> float:
    """Share of the test images that the model, in evaluation mode, gets right."""
    model.eval()
    correct = model(data.test_x).argmax(1) == data.test_y  # [test]
    model.train()
    return correct.double().mean().item()

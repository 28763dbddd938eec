"""On digits the noise scale is that of the per-sample gradients, or it is said that it is not resolved."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from truestep.lab._digits import Digits, digits
from truestep.loss.noise._noise_scale import NoiseEstimate, NoiseScale


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


def build() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def exact(model: nn.Module, data: Digits) -> float:
    """Noise scale from the gradient of every single item."""
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, params, (x[None],)), y[None])

    each = vmap(grad(loss), (None, 0, 0))(params, data.train_x, data.train_y)
    rows = torch.cat([g.flatten(1) for g in each.values()], 1).double()
    mean = rows.mean(0)
    return float((rows - mean).square().sum() / len(rows) / mean.square().sum())


def measured(model: nn.Module, data: Digits, windows: int, seed: int = 0, k: int = 4) -> NoiseEstimate:
    """An estimate from windows of k micro-batches of 16 at fixed weights."""
    noise, generator = NoiseScale(model.parameters()), torch.Generator().manual_seed(seed)
    for _ in range(windows):
        model.zero_grad()
        for _ in range(k):
            index = torch.randint(len(data.train_y), (16,), generator=generator)
            (cross_entropy(model(data.train_x[index]), data.train_y[index]) / k).backward()
            noise.micro(16)
        noise.window()
    noise.close()
    return noise.estimate()


def train(model: nn.Module, data: Digits, epochs: int) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(epochs):
        for index in torch.randperm(len(data.train_y)).split(32):
            optimizer.zero_grad()
            cross_entropy(model(data.train_x[index]), data.train_y[index]).backward()
            optimizer.step()
    return model


def test_early_in_training_200_windows_are_within_15_percent_of_the_per_sample_value(data: Digits) -> None:
    model = train(build(), data, 1)
    truth, found = exact(model, data), measured(model, data, 200)
    assert found.value == pytest.approx(truth, rel=0.15)
    assert found.low < truth < found.high < 1.3 * found.low


def test_late_in_training_16_windows_hold_the_value_or_say_that_they_do_not_resolve_it(data: Digits) -> None:
    model = train(build(), data, 12)
    truth = exact(model, data)
    found = [measured(model, data, 16, seed) for seed in range(12)]
    assert sum(estimate.low <= truth <= estimate.high for estimate in found) >= 11  # of 12, at 95 %
    unresolved = [estimate for estimate in found if not estimate.resolved]
    assert unresolved
    assert all(math.isnan(estimate.value) for estimate in unresolved)
    assert all("not resolved" in str(estimate) for estimate in unresolved)

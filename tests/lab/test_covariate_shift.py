"""The nets of the class project: copies against torch's own modules, and what each variant changes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from truestep.lab._covariate_shift import (
    EPS,
    INPUTS,
    REACHED,
    WIDTHS,
    Stack,
    course,
    descend,
    images,
    mean_losses,
    step,
)
from truestep.lab._variants import VARIANTS, Variant


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(30, INPUTS, generator=generator, dtype=torch.float64) + 1, torch.arange(30) % 10


def as_torch(net: Stack, norm: bool) -> nn.Sequential:
    """The first copy in torch's own modules."""
    modules: list[nn.Module] = []
    for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        linear = nn.Linear(w.shape[2], w.shape[1], dtype=torch.float64)
        linear.load_state_dict({"weight": w[0].detach(), "bias": b[0].detach()})
        modules.append(linear)
        if norm and i < len(WIDTHS):
            modules.append(nn.BatchNorm1d(w.shape[1], eps=EPS, dtype=torch.float64))
        modules.append(nn.ReLU())
    return nn.Sequential(*modules[:-1])


@pytest.mark.parametrize("variant", ["none", "BN"])
def test_a_copy_steps_as_torch_s_modules_do(variant: str) -> None:
    x, y = batch()
    net = Stack("relu", VARIANTS[variant], 2, seed=1)
    same = as_torch(net, norm=variant == "BN")
    loss = mean_losses(same(x)[None], y)[0]
    loss.backward()
    rates = torch.tensor([0.1, 0.2], dtype=torch.float64)
    before = net.weights[0].detach().clone()
    torch.testing.assert_close(step(net, x, y, rates), loss.detach().expand(2))
    gradient = same[0].weight.grad
    torch.testing.assert_close(net.weights[0].detach(), before - torch.stack([0.1 * gradient, 0.2 * gradient]))


@pytest.mark.parametrize("name", ["BN", "BC"])
def test_direct_changes_the_gradient_alone_to_that_with_fixed_statistics(name: str) -> None:
    x, y = batch()
    nets = [Stack("tanh + 1", VARIANTS[v], 1, seed=0) for v in (name, f"{name} direct", name)]
    with torch.no_grad():
        nets[2](x)
    nets[2].held = nets[2].seen
    losses = [mean_losses(net(x), y)[0] for net in nets]
    full, direct, held = (torch.autograd.grad(loss, net.weights[1])[0] for loss, net in zip(losses, nets, strict=True))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(direct, held)
    assert (full - direct).norm() > 0.1 * full.norm()


def test_bn_in_the_next_layer_does_not_see_a_shift() -> None:
    x, _ = batch()
    nets = [Stack("relu", VARIANTS[v], 1, seed=0) for v in ("BN", "BN + ICS")]
    for net in nets:
        net(x)
    torch.testing.assert_close(nets[1].inputs[1], nets[0].inputs[1] + nets[0].added[0])
    torch.testing.assert_close(nets[1].inputs[2], nets[0].inputs[2] + nets[0].added[1])


def test_bn_after_the_activation_leaves_no_shift() -> None:
    x, _ = batch()
    net = Stack("logistic", VARIANTS["BN after"], 1, seed=0)
    net(x)
    torch.testing.assert_close(net.inputs[2].mean(1), torch.zeros(1, WIDTHS[1], dtype=torch.float64))
    assert net.inputs[2].detach().std() == pytest.approx(1, rel=0.05)


def test_what_is_moved_for_good_stays_and_noise_is_drawn_anew_in_training_alone() -> None:
    x, _ = batch()
    fixed, noisy, plain = (Stack("tanh", VARIANTS[v], 1, seed=0) for v in ("BN + moved", "BN + noise", "BN"))
    assert torch.equal(fixed(x), fixed(x))
    assert torch.equal(fixed(x), fixed.eval()(x))
    assert not torch.equal(noisy(x), noisy(x))
    torch.testing.assert_close(noisy.eval()(x), plain(x))
    assert (fixed(x) - plain(x)).abs().max() > 0.1


def test_standardizing_does_not_see_a_shift_that_the_next_biases_take_off() -> None:
    x, y = batch()
    rates = torch.tensor([0.1], dtype=torch.float64)
    plain = Stack("tanh", VARIANTS["standardizing"], 1, seed=0)
    shifted = Stack("tanh", replace(VARIANTS["standardizing"], shifted=True), 1, seed=0)
    with torch.no_grad():
        for i, added in enumerate(shifted.added):
            shifted.biases[i + 1].sub_(shifted.weights[i + 1] @ added)
    for _ in range(5):
        step(plain, x, y, rates)
        step(shifted, x, y, rates)
    torch.testing.assert_close(shifted(x), plain(x), rtol=1e-9, atol=1e-9)


def test_the_first_lr_to_hold_is_the_best() -> None:
    x, y = images(0)
    lrs = (0.5, 2.0, 50.0)
    found = descend(Stack("tanh", Variant(), 3, 0), x, y, lrs, steps=60, held=3)
    assert found.lr == 2.0
    net, rate = Stack("tanh", Variant(), 1, 0), torch.tensor([found.lr], dtype=torch.float64)
    losses = [float(step(net, x, y, rate)) for _ in range(found.steps + 1)]
    assert losses[found.steps] <= REACHED < losses[found.steps - 1]


def test_who_never_gets_there_has_a_step_more_than_were_done() -> None:
    assert course("logistic", "none + ICS", 0, steps=3).steps == 4


def test_inputs_are_white() -> None:
    x, _ = images(3)
    torch.testing.assert_close(x.mean(0), torch.zeros(INPUTS, dtype=torch.float64))
    torch.testing.assert_close(x.T @ x / len(x), torch.eye(INPUTS, dtype=torch.float64))

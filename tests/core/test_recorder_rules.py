"""What is recorded of every rule in torch.optim agrees with float64 vectors that the test took itself."""

from typing import Any

import pytest
import torch
from tests.cases import ORDINARY, RULES, assert_same_gram, explicit, optimizer_settings
from tests.core.beside import Beside, backward, named, small_net
from torch import Tensor, nn

from truestep.core import Gram
from truestep.invariance import angular_update, relative_update

NUM_STEPS = 6
FLAGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight_decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "nesterov and decay": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "nesterov and maximize": {"momentum": 0.9, "nesterov": True, "maximize": True},
    "amsgrad": {"amsgrad": True},
    "centered": {"centered": True},
}


VARIANTS = [
    pytest.param(name, settings, id=f"{name}, {way}, {flag}") for name, way, flag, settings in optimizer_settings(FLAGS)
]


def network(rule: str) -> nn.Module:
    model = small_net()
    if rule == "Muon":  # matrices only
        model[0], model[2] = nn.Linear(5, 6, bias=False), nn.Linear(6, 4, bias=False)
    return model


def angle(w: Tensor, d: Tensor) -> Tensor:
    """Angle between two float64 vectors, w and w + d."""
    rejected = d - w * (w @ d) / (w @ w)
    return torch.atan2(rejected.norm(), w.norm() + (w @ d) / w.norm())


@pytest.mark.parametrize(("rule", "settings"), VARIANTS)
def test_every_rule_s_products_are_those_of_the_test_s_own_vectors(rule: str, settings: dict[str, Any]) -> None:
    model = network(rule)
    run = Beside(named(model), RULES[rule](model.parameters(), **settings))
    moved = False
    for _ in range(NUM_STEPS):
        backward(model)
        moved = bool((run.assert_step().dd > 0).all()) or moved
    assert moved
    assert [step.index for step in run.steps] == list(range(NUM_STEPS))


@pytest.mark.parametrize("rule", ORDINARY)
def test_angle_and_relative_update_are_those_of_the_vectors(rule: str) -> None:
    model = network(rule)
    run = Beside(named(model), RULES[rule](model.parameters()))
    for _ in range(NUM_STEPS):
        backward(model)
        before = [p.detach().double().flatten() for p in model.parameters()]
        run.assert_step()
        after = [p.detach().double().flatten() for p in model.parameters()]
        pairs = [(w, now - w) for w, now in zip(before, after, strict=True)]
        angles = torch.stack([angle(w, d) for w, d in pairs])
        updates = torch.stack([d.norm() / w.norm() for w, d in pairs])
        torch.testing.assert_close(angular_update(run.steps[-1].took), angles, rtol=1e-6, atol=0)
        torch.testing.assert_close(relative_update(run.steps[-1].took), updates, rtol=1e-6, atol=0)


def test_sparse_adam_s_gradient_is_its_sparse_one() -> None:
    model = nn.Embedding(9, 4, sparse=True)
    run = Beside(named(model), torch.optim.SparseAdam(model.parameters(), lr=0.1))
    for _ in range(NUM_STEPS):
        model.zero_grad()
        model(torch.tensor([1, 7, 1])).square().sum().backward()  # row 1 twice
        assert run.assert_step().gg > 0


def test_lbfgs_without_a_line_search_is_measured_from_the_first_evaluation() -> None:
    model = small_net()
    batch = torch.randn(8, 5)
    run = Beside(named(model), torch.optim.LBFGS(model.parameters(), max_iter=4))

    def closure() -> Tensor:
        model.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        return loss

    for _ in range(NUM_STEPS):
        grads = dict(
            zip(named(model), torch.autograd.grad(model(batch).square().mean(), model.parameters()), strict=True)
        )
        run.assert_step(lambda: run.optimizer.step(closure), grads)


@pytest.mark.parametrize("settings", [{"foreach": False}, {"fused": True}], ids=str)
@pytest.mark.parametrize("rule", ["Adam", "AdamW", "SGD"])
def test_a_tensor_lr_is_asked_as_a_number(rule: str, settings: dict[str, Any]) -> None:
    model = small_net()
    run = Beside(named(model), RULES[rule](model.parameters(), lr=torch.tensor(0.125), **settings))
    for _ in range(2):
        backward(model)
        run.assert_step()
    assert run.steps[-1].asked.lr.tolist() == [0.125] * 4


def test_only_nesterov_with_foreach_costs_a_second_copy_in_torch() -> None:
    for name, settings in (param.values for param in VARIANTS):
        model = network(name)
        run = Beside(named(model), RULES[name](model.parameters(), **settings))
        overwrites = settings.get("nesterov") and settings.get("foreach") and name == "SGD"
        for _ in range(2):
            backward(model)
            run.assert_step()
            assert run.recorder._gradient.keep == bool(overwrites), (name, settings)


class Moves(torch.optim.SGD):
    """Adds a given displacement."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            p.add_(p.displacement)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_almost_radial_step_keeps_its_angle(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.randn(4096, dtype=dtype))
    w = weight.detach().double().clone()
    tangent = torch.randn(4096, dtype=torch.float64)
    tangent -= w * (w @ tangent) / (w @ w)
    weight.displacement = (-1e-4 * w + 1e-7 * tangent).to(dtype)
    weight.grad = torch.randn_like(weight)
    run = Beside({"weight": weight}, Moves([weight]))
    run.assert_step()
    d = weight.detach().double() - w
    torch.testing.assert_close(angular_update(run.steps[0].took)[0], angle(w, d), rtol=1e-6, atol=0)
    if dtype == torch.float64:
        expected = 1e-7 * tangent.norm() / (w.norm() * (1 - 1e-4))
        torch.testing.assert_close(angular_update(run.steps[0].took)[0], expected, rtol=1e-6, atol=0)


def projection(took: Gram, lr: float) -> float:
    """How much of the step asked, -lr g, was taken along it."""
    return float(-took.gd / (lr * took.gg))


@pytest.mark.parametrize("signs", [False, True], ids=["gaussian", "sign"])
def test_bfloat16_takes_about_half_of_a_step_of_a_thousandth(signs: bool) -> None:
    taken = {}
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(20_000).to(dtype))
        gradient = torch.randn(20_000).to(dtype)
        weight.grad = gradient.sign() if signs else gradient
        lr = 1e-3 * float(weight.detach().double().norm() / weight.grad.double().norm())
        run = Beside({"weight": weight}, torch.optim.SGD([weight], lr=lr))
        run.assert_step()
        taken[dtype] = projection(run.steps[0].took, lr)
    assert 0.45 < taken[torch.bfloat16] < 0.6
    assert taken[torch.float32] == pytest.approx(1.0, abs=1e-4)


def test_bfloat16_takes_nothing_of_a_radial_step_of_a_thousandth() -> None:
    weight = nn.Parameter(torch.randn(1000).bfloat16())
    run = Beside({"weight": weight}, torch.optim.SGD([weight], lr=1e-3))
    weight.grad = weight.detach().clone()
    assert run.assert_step().dd == 0.0
    assert run.steps[0].asked.lr == 1e-3


def test_complex_weights_are_measured_as_their_real_and_imaginary_parts() -> None:
    weight = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))
    run = Beside({"weight": weight}, torch.optim.Adam([weight], lr=0.1))
    for _ in range(3):
        weight.grad = torch.randn_like(weight)
        assert run.assert_step().dd > 0


def test_mixed_number_formats_in_one_model_are_measured_each_in_its_own() -> None:
    formats = {"half": torch.float16, "brain": torch.bfloat16, "single": torch.float32, "double": torch.float64}
    params = {name: nn.Parameter(torch.randn(5, 3).to(dtype)) for name, dtype in formats.items()}
    run = Beside(params, torch.optim.SGD(params.values(), lr=0.1, momentum=0.9))
    for _ in range(3):
        for p in params.values():
            p.grad = torch.randn_like(p)
        assert bool((run.assert_step().dd > 0).all())


def test_units_of_linear_and_conv_weights_add_up_to_their_blocks() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3 * 4, 5))
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    blocks = Beside(named(model), optimizer)
    units = Beside(named(model), optimizer, units=("0.weight", "2.weight"))
    model(torch.randn(4, 2, 3, 3)).square().sum().backward()
    before = model[0].weight.detach().clone(), model[0].weight.grad.clone()
    optimizer.step()
    step = units.steps[0]
    assert step.names[:4] == ("0.weight[0]", "0.weight[1]", "0.weight[2]", "0.bias")
    rows = step.took.columns().split([3, 1, 5, 1])
    added = Gram.from_columns(torch.stack([part.sum(0) for part in rows]))
    assert_same_gram(added, blocks.steps[0].took, 1e-13)
    w, g = before
    expected = explicit(w, g, model[0].weight.detach().double() - w.double(), unit_dim=0)
    assert_same_gram(Gram.from_columns(rows[0]), expected, 1e-13)
    assert step.asked.lr.shape == (10,)

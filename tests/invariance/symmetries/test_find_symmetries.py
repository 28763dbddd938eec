"""Found are the symmetries that were written down by hand, and the model is left as it was."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterable, Mapping

import pytest
import torch
from tests.invariance.symmetries.nets import (
    CASES,
    CLASSES,
    MLP,
    Batch,
    Case,
    Transformer,
    deep,
    loss_fn,
    texts,
    vectors,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from truestep.invariance.symmetries import Symmetries, find_symmetries

BATCH, BATCHES = 8, 8


def batches(case: Case) -> list[Batch]:
    return [case.batch(BATCH) for _ in range(BATCHES)]


def trained(model: nn.Module, data: list[Batch], steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        loss_fn(model, data[step % len(data)]).backward()
        optimizer.step()
    optimizer.zero_grad()


def scaled(model: nn.Module, factor: float) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(factor)


def matrix(generators: Iterable[Mapping[str, int]], names: list[str]) -> Tensor:
    return torch.tensor([[a.get(name, 0) for name in names] for a in generators], dtype=torch.float64).view(
        -1, len(names)
    )


def assert_as_written(found: Symmetries, case: Case, model: nn.Module) -> None:
    assert found.alone == case.alone
    assert set(found.no_effect) == case.no_effect
    names = [name for name, _ in model.named_parameters()]
    mine, written = matrix(found.joint, names), matrix(case.joint, names)
    assert len(mine) == len(written) == torch.linalg.matrix_rank(torch.cat([mine, written]))  # one space
    assert mine.abs().sum() == written.abs().sum()  # and as short


@pytest.mark.parametrize("name", CASES)
def test_a_fresh_network_has_the_symmetries_written_down(name: str) -> None:
    model = (case := CASES[name]).build()
    found = find_symmetries(model, batches(case), loss_fn)
    assert_as_written(found, case, model)
    assert sum(found.passes) <= len(list(model.parameters())) + 8


@pytest.mark.parametrize("name", ["MLP BN", "ResNet GN", "post-LN"])
def test_so_has_one_of_small_weights(name: str) -> None:
    model = (case := CASES[name]).build()
    scaled(model, 0.01)
    assert_as_written(find_symmetries(model, batches(case), loss_fn), case, model)


@pytest.mark.parametrize("name", ["MLP BN bias", "MLP LN bias", "pre-LN gated"])
def test_so_has_a_trained_one(name: str) -> None:
    model, data = (case := CASES[name]).build(), batches(case)
    trained(model, data, 200)
    assert_as_written(find_symmetries(model, data, loss_fn), case, model)


@pytest.mark.parametrize("function", [nn.Sigmoid, nn.Tanh, nn.ReLU6])
def test_a_function_that_saturates_is_not_homogeneous_though_it_is_nearly_so_at_large_weights(function) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), function(), nn.Linear(32, 32), function(), nn.Linear(32, CLASSES))
    data = [(5 * torch.randn(16, 64), torch.randint(CLASSES, (16,))) for _ in range(BATCHES)]
    trained(model, data, 200)
    found = find_symmetries(model, data, loss_fn)
    assert (found.alone, found.joint) == ({}, [])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", [0, 200])
@pytest.mark.parametrize("factor", [1.0, 0.01, 10.0])
@pytest.mark.parametrize("name", CASES)
def test_so_has_each_at_any_size_trained_or_not(name: str, factor: float, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    model, data = (case := CASES[name]).build(), batches(case)
    trained(model, data, steps)
    scaled(model, factor)
    assert_as_written(find_symmetries(model, data, loss_fn, seed=seed), case, model)


@pytest.mark.parametrize("name", ["MLP BN bias", "pre-LN"])
def test_the_exponents_hold_without_gradients(name: str) -> None:
    case = CASES[name]
    model, data = case.build().double(), [(x.double() if x.is_floating_point() else x, y) for x, y in batches(case)]
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-30
    found = find_symmetries(model, data, loss_fn)
    assert_as_written(found, case, model)
    before, parameters = loss_fn(model, data[0]), dict(model.named_parameters())
    for exponents in [*({name: 1} for name in found.alone), *found.joint]:
        with torch.no_grad():
            for name_, exponent in exponents.items():
                parameters[name_].mul_(1.7**exponent)
        torch.testing.assert_close(loss_fn(model, data[0]), before, rtol=1e-11, atol=0)


def test_the_writers_to_the_stream_are_invariant_up_to_an_eps_that_falls_with_the_square_of_their_scale() -> None:
    case, up_to = CASES["pre-LN"], list[float]()
    model, data = case.build(), batches(case)
    for factor in (10.0, 10.0):
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in {"embed.weight", "place"} or ".o." in name or ".down." in name:
                    p.mul_(factor)
        found = find_symmetries(model, data, loss_fn)
        up_to.append(found.joint_residuals[next(i for i, a in enumerate(found.joint) if "place" in a)])
    assert up_to[0] / up_to[1] == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("number", [1, 3, 1000])
def test_batches_are_taken_in_turn_and_no_more_than_there_are_rows(number: int) -> None:
    model, seen = (case := CASES["MLP ReLU"]).build(), list[int]()

    def stream() -> Iterable[Batch]:
        for at in range(number):
            seen.append(at)
            yield case.batch(16)

    assert_as_written(find_symmetries(model, stream(), loss_fn), case, model)
    assert len(seen) == min(number, 6 + 8)


def test_the_passes_that_are_told_are_those_that_were_taken() -> None:
    calls = list[int]()

    def counted(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(1)
        return loss_fn(model, batch)

    found = find_symmetries(CASES["MLP BN"].build(), batches(CASES["MLP BN"]), counted)
    assert sum(found.passes) == len(calls)
    assert min(found.passes) > 1


def test_losses_and_weights_do_as_well_as_their_mean() -> None:
    case = CASES["MLP LN"]

    def losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        x, y = batch
        return cross_entropy(model(x), y, reduction="none"), (y > 0).float()

    model = case.build()
    assert_as_written(find_symmetries(model, batches(case), losses), case, model)


def test_a_frozen_tensor_is_held_and_breaks_what_it_had_a_part_in() -> None:
    model = MLP(bias=True)
    model.fc2.weight.requires_grad_(False)
    found = find_symmetries(model, [vectors(8)], loss_fn)
    assert (found.alone, found.joint) == ({}, [{"fc2.bias": 1, "out.weight": -1, "fc1.weight": 1, "fc1.bias": 1}])
    assert found.sensitive == ("out.bias",)


def test_a_figure_that_cannot_be_measured_is_nan() -> None:
    model = (case := CASES["MLP BN"]).build()
    nn.init.zeros_(model.out.weight)
    found = find_symmetries(model, batches(case), loss_fn)
    assert found.alone == case.alone
    assert all(math.isnan(x) for x in found.residuals.values())
    assert "fc1.weight  not measured: no gradient at the model's own weights" in str(found)


class Checkpointed(nn.Sequential):
    """Its first two layers behind a reentrant checkpoint, as where a frozen embedding stands before them."""

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self
        hidden = checkpoint(lambda x: second(first(x)), x.detach().requires_grad_(), use_reentrant=True)
        return third(hidden)


def test_gradients_that_only_backward_computes_are_no_reason_to_say_no_effect() -> None:
    model = Checkpointed(nn.Linear(7, 8), nn.LayerNorm(8), nn.Linear(8, 5))
    with pytest.raises(ValueError, match="`model` uses reentrant checkpoints"):
        find_symmetries(model, [vectors(8)], loss_fn)
    assert all(p.grad is None for p in model.parameters())


def test_autocast_is_refused() -> None:
    case = CASES["MLP BN"]
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"computes in torch.bfloat16"):
        find_symmetries(case.build(), batches(case), loss_fn)


def test_a_wrapped_model_has_the_bare_one_s_names() -> None:
    case = CASES["MLP BN"]
    model, data = case.build(), batches(case)
    assert find_symmetries(nn.DataParallel(model), data, loss_fn) == find_symmetries(model, data, loss_fn)


def test_a_model_in_eval_mode_is_probed_in_train_mode_but_parts_held_in_eval_mode_stay_so() -> None:
    case = CASES["MLP BN"]
    model, data = case.build(), batches(case)
    assert find_symmetries(model.eval(), data, loss_fn).alone == case.alone
    assert not any(module.training for module in model.modules())
    model.train().norm1.eval()
    assert find_symmetries(model, data, loss_fn).alone == {"fc2.weight": "unit"}


def test_dead_units_are_told_and_change_nothing_else() -> None:
    model, data = MLP(bias=True), [vectors(8)]
    with torch.no_grad():
        model.fc1.bias[[2, 5]] = -100.0
    found = find_symmetries(model, data, loss_fn)
    assert found.dead["fc1.weight"] == (2, 5)
    assert_as_written(found, CASES["MLP ReLU"], model)


def test_a_gate_of_zero_hides_no_symmetry_behind_it() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm, self.out = nn.Linear(7, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 5)
            self.gate, self.unused = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.gate * torch.tanh(self.norm(self.fc(x))) + x[:, :6])

    found = find_symmetries(Gated(), [vectors(8)], loss_fn)
    assert found.alone == {"fc.weight": "unit"}
    assert (found.no_effect, found.joint) == (("unused",), [])
    assert found.dead == {"fc.weight": tuple(range(6))}


def test_a_weight_used_twice_has_twice_the_exponent() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(7, 7, bias=False), nn.Linear(7, 5, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.fc(torch.relu(self.fc(x)))))

    assert find_symmetries(Twice(), [vectors(16)], loss_fn).joint == [{"fc.weight": -1, "out.weight": 2}]


def test_a_chain_of_product_pairs_is_told_pair_by_pair() -> None:
    found = find_symmetries(deep(6, 8), [vectors(16)], loss_fn)
    assert [len(a) for a in found.joint] == [3] * 6


def test_weights_gradients_buffers_modes_and_random_state_are_left_as_they_were() -> None:
    model = Transformer(dropout=0.3, blocks=1)
    model.register_buffer("seen", torch.zeros(()))
    model.register_forward_pre_hook(lambda module, _: module.seen.add_(1) and None)
    data = [texts(8)]
    loss_fn(model, data[0]).backward()
    model.blocks[0].eval()
    model.head.weight.grad = None
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    gradients = [(p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    drawn = torch.get_rng_state(), random.getstate()
    find_symmetries(model, data, loss_fn)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [m.training for m in model.modules()] == modes
    for p, (grad, values) in zip(model.parameters(), gradients, strict=True):
        assert p.grad is grad
        assert grad is None or torch.equal(grad, values)
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert random.getstate() == drawn[1]


def test_they_are_put_back_after_an_exception_too() -> None:
    model, calls = MLP(bias=True), list[int]()

    def failing(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("enough")
        return loss_fn(model, batch)

    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="enough"):
        find_symmetries(model, [vectors(8)], failing)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_the_same_seed_finds_the_same() -> None:
    model, data = MLP(bias=True, wrap=lambda layer: nn.Sequential(layer, nn.Dropout(0.3))), [vectors(8)]
    torch.manual_seed(1)
    first = find_symmetries(model, data, loss_fn)
    torch.manual_seed(2)
    assert find_symmetries(model, data, loss_fn) == first


def frozen() -> nn.Module:
    return nn.Linear(7, 5).requires_grad_(False)


def broken() -> nn.Module:
    model = nn.Linear(7, 5)
    nn.init.constant_(model.bias, torch.nan)
    return model


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (frozen, [vectors(8)], "`model` has no parameter that requires a gradient"),
        (lambda: nn.Linear(7, 5), [], "`batches` is empty"),
        (lambda: nn.Linear(7, 5).bfloat16(), [vectors(8)], "must be in float32 or float64, found torch.bfloat16"),
        (broken, [vectors(8)], "`loss_fn` gave NaN or infinite gradients at 4 of 4 random weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_probed_is_refused(model, data, message) -> None:
    with pytest.raises(ValueError, match=message):
        find_symmetries(model(), data, loss_fn)


def test_a_loss_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="`loss_fn` must give a scalar mean or"):
        find_symmetries(nn.Linear(7, 5), [vectors(8)], lambda model, batch: model(batch[0]))

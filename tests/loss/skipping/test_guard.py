"""A step with bad gradients moves nothing, is counted with its reason, and the next step knows nothing of it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from jaxtyping import config
from tests.cases import ORDINARY, RULES
from tests.loss.skipping.runs import BAD, REASON, everything, fill, network, same, variants
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, SparseAdam
from torch.optim.lr_scheduler import StepLR

from truestep.loss import Guard, guard

HOST_READS = ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu", "__array__")
VARIANTS = [pytest.param(*v, id=f"{v[0]}, {', '.join(map(str, v[1]))}") for v in variants()]
FUSED = [param for param in VARIANTS if param.values[1].get("fused")]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As in a user's process: jaxtyping checks no types, so that our own messages speak."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def run(rule: str, settings: dict[str, Any], kinds: list[str], *, guarded: bool = True) -> tuple[Any, Guard | None]:
    """A run whose steps are good ("") or bad; one with all bad steps left out where it is not guarded."""
    torch.manual_seed(0)
    model = network(rule)
    optimizer = RULES[rule](model.parameters(), **settings)
    skips = guard(optimizer) if guarded else None
    for seed, kind in enumerate(kinds):
        if kind and not guarded:
            continue
        fill(model, seed, kind)
        before, grads = everything(model, optimizer), [p.grad for p in model.parameters()]
        copies = [None if g is None else g.clone() for g in grads]
        optimizer.step()
        assert same(before, everything(model, optimizer)) == bool(kind)
        assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
        assert not kind or same(copies, grads)
        assert not hasattr(optimizer, "found_inf")
        if skips:
            assert skips.last == REASON.get(kind)
    return everything(model, optimizer), skips


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(("rule", "settings"), VARIANTS)
def test_a_bad_step_changes_no_bit_and_the_next_is_that_of_a_run_without_it(
    rule: str, settings: dict[str, Any], bad: str
) -> None:
    kinds = [bad, "", bad, bad, "", ""]
    found, skips = run(rule, settings, kinds)
    expected, _ = run(rule, settings, kinds, guarded=False)
    assert same(found, expected)
    assert skips
    assert skips.skipped == 3
    assert skips.reasons == {"not finite": 0, "zero": 0} | {REASON[bad]: 3}


@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"weight_decay": 0.1}], ids=str)
def test_without_a_guard_even_a_zero_gradient_moves_the_weights(settings: dict[str, Any]) -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.1, **settings)
    for seed, kind in enumerate(["", "zero"]):
        fill(model, seed, kind)
        before = everything(model, optimizer)
        optimizer.step()
    assert not same(before, everything(model, optimizer))


def test_every_rule_of_torch_is_here() -> None:
    assert {param.values[0] for param in VARIANTS} == set(ORDINARY) == set(RULES) - {"LBFGS", "SparseAdam"}
    assert {param.values[0] for param in FUSED} == {"SGD", "Adam", "AdamW", "Adagrad"}


@pytest.mark.parametrize(("rule", "settings"), FUSED)
def test_a_fused_optimizer_with_state_is_never_read_on_the_host(rule: str, settings: dict[str, Any]) -> None:
    model = network(rule)
    optimizer = RULES[rule](model.parameters(), **settings)
    skips = guard(optimizer)
    fill(model, 0)
    optimizer.step()
    for seed, kind in enumerate(["nan", "", "zero", "inf"]):
        fill(model, seed + 1, kind)
        with pytest.MonkeyPatch.context() as patch:
            for name in HOST_READS:
                patch.setattr(Tensor, name, lambda *_: pytest.fail("a tensor was read on the host"))
            optimizer.step()
    assert skips.reasons == {"not finite": 2, "zero": 1}


def test_another_optimizer_is_read_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    optimizer = AdamW(model.parameters(), foreach=True)
    guard(optimizer)
    reads: list[str] = []
    for name in HOST_READS:
        real = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda *a, real=real, name=name, **k: (reads.append(name), real(*a, **k))[1])
    fill(model, 0)
    optimizer.step()
    assert reads.count("tolist") == 1
    own = len(reads)
    reads.clear()
    optimizer._optimizer_step_pre_hooks.clear()
    optimizer._optimizer_step_post_hooks.clear()
    optimizer.step()
    assert own == len(reads) + 1  # AdamW reads its own counters on the CPU


def test_one_element_of_one_tensor_is_enough() -> None:
    model = network().double()
    optimizer = SGD(model.parameters(), 0.1)
    skips = guard(optimizer)
    for number in (torch.nan, torch.inf, -torch.inf, 1e308):
        fill(model, 0)
        grad = model[0].weight.grad
        assert isinstance(grad, Tensor)
        grad[2, 3] = number
        optimizer.step()
    assert skips.reasons == {"not finite": 3, "zero": 0}


def test_a_single_number_that_is_not_zero_makes_a_good_gradient() -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.1)
    skips = guard(optimizer)
    fill(model, 0, "zero")
    grad = model[0].bias.grad
    assert isinstance(grad, Tensor)
    grad[1] = 1e-42
    optimizer.step()
    assert skips.skipped == 0


def test_parameters_without_a_gradient_are_neither_zero_nor_bad() -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    skips = guard(optimizer)
    optimizer.step()
    assert (skips.skipped, skips.last) == (0, None)
    fill(model, 0, "nan")
    model[2].bias.grad = None  # the only bad one
    optimizer.step()
    assert skips.skipped == 0
    fill(model, 1, "zero")
    model[2].bias.grad = None
    optimizer.step()
    assert skips.reasons == {"not finite": 0, "zero": 1}
    assert model[2].bias.grad is None


def test_sparse_gradients_are_judged_by_what_they_store() -> None:
    model = nn.Embedding(9, 4, sparse=True)
    optimizer = SparseAdam(model.parameters(), lr=0.1)
    skips = guard(optimizer)
    for factor in (1.0, torch.nan, 0.0, 1.0):
        model.zero_grad()
        (model(torch.tensor([1, 7, 1])).square().sum() * factor).backward()  # row 1 twice
        before, grad = everything(model, optimizer), model.weight.grad
        optimizer.step()
        assert same(before, everything(model, optimizer)) == (factor != 1)
        assert model.weight.grad is grad
    assert skips.reasons == {"not finite": 1, "zero": 1}


def test_a_scheduler_goes_on_over_skipped_steps() -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.1)
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    guard(optimizer)
    for seed, kind in enumerate(["nan", "", "zero"]):
        fill(model, seed, kind)
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [0.0125]


def test_the_counts_are_saved_and_go_on() -> None:
    model = network()
    optimizer = Adam(model.parameters(), fused=True)
    skips = guard(optimizer)
    for seed, kind in enumerate(["nan", "", "nan", "zero"]):
        fill(model, seed, kind)
        optimizer.step()
    state = skips.state_dict()
    assert state == {"reasons": {"not finite": 2, "zero": 1}, "streak": 2, "last": "zero"}
    skips.close()
    resumed = guard(optimizer)
    resumed.load_state_dict(state)
    fill(model, 9, "nan")
    optimizer.step()
    assert resumed.state_dict() == {"reasons": {"not finite": 3, "zero": 1}, "streak": 3, "last": "not finite"}
    assert skips.skipped == 3


def test_a_closed_guard_leaves_an_optimizer_without_hooks() -> None:
    optimizer = SGD(network().parameters(), 0.1)
    with guard(optimizer):
        assert optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("settings", [{}, {"fused": True}], ids=str)
def test_steps_skipped_in_a_row_are_warned_of_once(settings: dict[str, Any]) -> None:
    model = network()
    optimizer = Adam(model.parameters(), **settings)
    guard(optimizer, patience=3)
    for seed, kind in enumerate(["", "nan", "nan", "", "nan", "nan"]):
        fill(model, seed, kind)
        optimizer.step()
    fill(model, 9, "nan")
    with pytest.warns(RuntimeWarning, match="skipped the last 3 steps of Adam or more"):
        optimizer.step()
    for _ in range(4):  # warnings are errors
        optimizer.step()


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_guarded_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"must be a torch.optim.Optimizer .* found Linear"):
        guard(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`patience` must be a positive number of steps, found 0"):
        guard(SGD(network().parameters(), 0.1), patience=0)


def test_all_tensors_of_a_mixed_model_are_judged() -> None:
    weights = [nn.Parameter(torch.ones(3, dtype=d)) for d in (torch.bfloat16, torch.float64, torch.complex64)]
    empty = nn.Parameter(torch.ones(0))
    optimizer = SGD([*weights, empty], 0.1)
    skips = guard(optimizer)
    empty.grad = torch.ones(0)
    for index, bad in enumerate(weights):
        for p in weights:
            p.grad = torch.ones_like(p)
        assert bad.grad is not None
        bad.grad[1] = torch.nan
        optimizer.step()
        assert skips.skipped == index + 1
    assert all(torch.equal(p, torch.ones_like(p)) for p in weights)


class Decays(SGD):
    """A rule of one's own on top of torch's: both its step and its base's carry the hooks."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.mul_(0.9)
        return loss


@pytest.mark.parametrize("settings", [{}, {"fused": True}], ids=str)
def test_a_subclass_that_calls_its_base_s_step_is_skipped_once_and_whole(settings: dict[str, Any]) -> None:
    model = network()
    SGD(model.parameters(), 0.1)
    optimizer = Decays(model.parameters(), 0.1, momentum=0.9, **settings)
    skips = guard(optimizer)
    for seed, kind in enumerate(["", "nan", "", "zero"]):
        fill(model, seed, kind)
        before = everything(model, optimizer)
        optimizer.step()
        assert same(before, everything(model, optimizer)) == bool(kind)
    assert skips.reasons == {"not finite": 1, "zero": 1}


class Fails(SGD):
    """A rule whose step ends in an exception."""

    failing = True

    def step(self, closure: Any = None) -> Any:
        if self.failing:
            raise ZeroDivisionError
        return super().step(closure)


@pytest.mark.parametrize("settings", [{}, {"fused": True}], ids=str)
def test_after_a_step_that_raised_the_gradients_come_back(settings: dict[str, Any]) -> None:
    model = network()
    optimizer = Fails(model.parameters(), 0.1, **settings)
    skips = guard(optimizer)
    fill(model, 0, "nan")
    grads = [p.grad for p in model.parameters()]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
    skips.close()
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert not hasattr(optimizer, "found_inf")


def test_gradients_made_after_a_step_that_raised_stay() -> None:
    model = network()
    optimizer = Fails(model.parameters(), 0.1)
    skips = guard(optimizer)
    fill(model, 0, "nan")
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    Fails.failing = False
    model[0].weight.grad = torch.ones(6, 5)
    optimizer.step()
    Fails.failing = True
    assert model[2].bias.grad is None
    assert skips.reasons == {"not finite": 1, "zero": 0}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("settings", [{}, {"fused": True}], ids=str)
def test_a_compiled_step_is_guarded_too(settings: dict[str, Any]) -> None:
    torch.compiler.reset()
    model = network()
    optimizer: Optimizer = SGD(model.parameters(), 0.1, momentum=0.9, **settings)
    skips = guard(optimizer)
    step = torch.compile(optimizer.step, backend="eager")
    for seed, kind in enumerate(["nan", "", "zero", ""]):
        fill(model, seed, kind)
        before = everything(model, optimizer)
        step()
        assert same(before, everything(model, optimizer)) == bool(kind)
    assert skips.reasons == {"not finite": 1, "zero": 1}
    torch.compiler.reset()

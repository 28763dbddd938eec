"""The probe: two recipes that are one training move the weights alike, others by the factor that is known."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truestep.recipe import Probe, Recipe, probe, transfer
from truestep.recipe._probe import build_optimizer

DATA = torch.randn(96, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def in_order(size: int) -> Iterator[Tensor]:
    """Batches without chance, so that other runs see the same items."""
    yield from DATA.split(size)


def shuffled(size: int) -> Iterator[Tensor]:
    yield from DATA[torch.randperm(96)].split(size)


def squared(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - batch[:, :2]).square().mean()


def pulled(model: nn.Module, batch: Tensor) -> Tensor:
    """A loss whose gradient is the same everywhere, whatever the batch."""
    return sum((p.sum() for p in model.parameters()), torch.zeros(()).double()) + 0 * model(batch).sum()


def problem(loss_fn: Callable[..., Any] = squared, batches: Callable[..., Any] = in_order) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return {"model": model, "batches": batches, "loss_fn": loss_fn}


OLD = Recipe("sgd", 0.01, 8)


def test_a_recipe_against_itself_moves_the_weights_alike() -> None:
    found = probe(problem(), OLD, OLD, 8)
    assert (found.ratio.value, found.ratio.low, found.ratio.high) == (1.0, 1.0, 1.0)
    assert found.cosine == pytest.approx(1.0)
    assert found.losses[0] == found.losses[1]
    assert (found.items, found.stretches) == (8, 8)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_cutting_the_batch_over_accumulation_and_ranks_changes_nothing(optimizer: str) -> None:
    whole = Recipe(optimizer, 0.01, 32)
    found = probe(problem(), whole, transfer(whole, 8, gradient_accumulation=2, world_size=2).recipe, 9)
    assert found.ratio.value == pytest.approx(1.0, rel=1e-9)
    assert found.cosine == pytest.approx(1.0, rel=1e-9)
    assert found.losses[1] == pytest.approx(found.losses[0], rel=1e-12)


def test_where_the_gradient_does_not_change_the_linear_rule_is_exact_and_the_square_root_halves_the_way() -> None:
    linear = probe(problem(pulled), OLD, transfer(OLD, 32).recipe, 8)
    assert linear.items == 32
    assert linear.ratio.value == pytest.approx(1.0, rel=1e-9)
    root = probe(problem(pulled), OLD, transfer(OLD, 32, rule="sqrt").recipe, 8)
    assert root.ratio.value == pytest.approx(0.5, rel=1e-9)
    assert all(ratio.value == pytest.approx(0.5, rel=1e-9) for ratio in root.blocks.values())
    assert list(root.blocks) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_batches_that_do_not_divide_each_other_are_compared_over_their_least_common_multiple() -> None:
    found = probe(problem(pulled), Recipe("sgd", 0.01, 6), Recipe("sgd", 0.01 * 8 / 6, 8), 8)
    assert found.items == 24
    assert found.ratio.value == pytest.approx(1.0, rel=1e-9)


def test_a_larger_batch_by_the_linear_rule_stays_within_what_other_batches_do() -> None:
    found = probe(problem(batches=shuffled), OLD, transfer(OLD, 32).recipe, 30)
    assert found.ratio.value == pytest.approx(1.0, abs=0.02)
    assert found.control.value == pytest.approx(1.0, abs=0.05)
    assert 0.9 < found.control_cosine < 1
    assert found.cosine > 0.99


def test_weights_of_the_losses_are_the_denominator_whatever_the_cut() -> None:
    weights = torch.arange(96) % 3  # a third of the targets is ignored

    def weighted(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
        w = weights[(batch[:, None] == DATA).all(2).int().argmax(1)].double()
        losses = (model(batch) - batch[:, :2]).square().sum(1)
        return torch.where(w > 0, losses, torch.nan), w

    whole = Recipe("sgd", 0.01, 32)
    found = probe(problem(weighted), whole, transfer(whole, 2, gradient_accumulation=16).recipe, 8)
    assert found.ratio.value == pytest.approx(1.0, rel=1e-9)
    assert math.isfinite(found.losses[0])


def test_a_summed_loss_and_its_mean_are_one_training() -> None:
    mean, summed = Recipe("sgd", 0.01, 8), Recipe("sgd", 0.01 / 8, 8, reduction="sum")
    assert probe(problem(), mean, summed, 8).ratio.value == pytest.approx(1.0, rel=1e-9)
    larger = probe(problem(), transfer(mean, 32).recipe, transfer(summed, 32).recipe, 8)
    assert larger.ratio.value == pytest.approx(1.0, rel=1e-9)


def test_model_and_random_numbers_of_the_caller_are_untouched() -> None:
    given = problem(batches=shuffled)
    before, state = [p.detach().clone() for p in given["model"].parameters()], torch.get_rng_state()
    probe(given, OLD, transfer(OLD, 32).recipe, 8)
    assert all(torch.equal(p, b) for p, b in zip(given["model"].parameters(), before, strict=True))
    assert all(p.grad is None for p in given["model"].parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_weights_are_no_block_and_do_not_move() -> None:
    given = problem()
    given["model"][0].requires_grad_(False)
    assert list(probe(given, OLD, OLD, 8).blocks) == ["2.weight", "2.bias"]


def test_a_problem_may_be_a_function_and_its_model_be_built_from_a_seed() -> None:
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(3, 2).double()

    found = probe(lambda: problem() | {"model": build}, OLD, OLD, 8)
    assert list(found.blocks) == ["weight", "bias"]
    assert found.ratio.value == 1.0


def test_progress_is_told_over_all_three_runs() -> None:
    told: list[tuple[int, int]] = []
    probe(problem(), OLD, OLD, 8, on_step=lambda done, total: told.append((done, total)))
    assert told == [(done, 24) for done in range(1, 25)]


def test_it_prints_intervals_and_what_chance_does() -> None:
    text = str(probe(problem(batches=shuffled), OLD, transfer(OLD, 32).recipe, 10))
    assert text.startswith("over every 32 items the new recipe moves the weights ")
    assert text.count("[") == 2
    assert "on other batches" in text


def test_a_class_of_the_user_s_own_is_built_with_what_it_takes() -> None:
    class Lion(torch.optim.Optimizer):
        def __init__(self, params: Any, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
            super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    weight = nn.Parameter(torch.zeros(1))
    group = build_optimizer(Recipe(Lion, 1e-4, 8, weight_decay=0.1), [weight]).param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.99), 0.1)
    with pytest.raises(ValueError, match="has no lion; give its class to run it"):
        build_optimizer(Recipe("lion", 1e-4, 8), [weight])


def test_a_setting_that_the_class_does_not_take_is_not_passed_over() -> None:
    class SignSGD(torch.optim.Optimizer):
        def __init__(self, params: Any, lr: float) -> None:
            super().__init__(params, {"lr": lr})

    with pytest.raises(ValueError, match="SignSGD takes no `momentum`, which the recipe has"):
        build_optimizer(Recipe(SignSGD, 1e-4, 8, momentum=0.9), [nn.Parameter(torch.zeros(1))])


def test_the_settings_of_a_recipe_reach_torchs_optimizer() -> None:
    weight = nn.Parameter(torch.zeros(1))
    rmsprop = build_optimizer(Recipe("rmsprop", 0.1, 8, 0.01, 0.9, (0.0, 0.5), 1e-3), [weight]).param_groups[0]
    assert [rmsprop[name] for name in ("lr", "weight_decay", "momentum", "alpha", "eps")] == [0.1, 0.01, 0.9, 0.5, 1e-3]
    assert build_optimizer(Recipe("adamw", 0.1, 8), [weight]).param_groups[0]["weight_decay"] == 0  # not torch's 0.01


@pytest.mark.parametrize(
    ("wrong", "steps", "message"),
    [
        ({"loss_fn": None}, 7, "`steps` must be at least 8"),
        ({"batches": lambda size: []}, 8, r"`batches\(8\)` gives no batch: are there fewer than 8 items\?"),
        ({"loss_fn": lambda model, batch: model(batch)}, 8, "`loss_fn` must give a scalar mean or"),
    ],
)
def test_a_problem_that_cannot_be_run_is_refused(wrong: dict[str, Any], steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe(problem() | wrong, OLD, OLD, steps)


@pytest.mark.parametrize("key", ["model", "batches", "loss_fn"])
def test_a_key_that_is_missing_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=f"`{key}` is missing"):
        probe({name: value for name, value in problem().items() if name != key}, OLD, OLD, 8)


def test_the_public_result_is_a_probe() -> None:
    assert isinstance(probe(problem(), OLD, OLD, 8), Probe)

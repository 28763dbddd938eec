"""Each number's law, where it is exact: on trainings that two recipes must share."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from truestep.loss._scale_lr import scale_adam, scale_lr
from truestep.recipe import Note, Recipe, transfer
from truestep.recipe._laws import Rule
from truestep.recipe._probe import build_optimizer

ADAMW = Recipe("adamw", 1e-3, 32, weight_decay=0.1, steps=256)
SGD = Recipe("sgd", 0.1, 32, weight_decay=1e-4, momentum=0.9, steps=1000)


def note(recipe: Recipe, name: str, batch_size: int, rule: Rule | None = None) -> Note:
    (found,) = (note for note in transfer(recipe, batch_size, rule=rule).notes if note.name == name)
    return found


def test_each_number_s_kind_is_said() -> None:
    def kinds(recipe: Recipe, rule: Rule | None = None) -> dict[str, str]:
        return {note.name: note.kind for note in transfer(recipe, 64, rule=rule).notes}

    batch, steps = {"items per step": "exact"}, {"steps": "exact"}
    assert kinds(SGD) == batch | {"lr": "limit law", "weight_decay": "exact", "momentum": "limit law"} | steps
    assert kinds(SGD, "sqrt") == batch | {"lr": "heuristic", "weight_decay": "exact", "momentum": "limit law"} | steps
    moments = dict.fromkeys(("lr", "betas", "eps"), "limit law")
    assert kinds(ADAMW) == batch | moments | {"weight_decay": "limit law"} | steps
    for rule in ("sqrt", "linear"):
        assert kinds(ADAMW, rule) == batch | dict.fromkeys(moments, "heuristic") | {"weight_decay": "limit law"} | steps
    lion = Recipe("lion", 1e-4, 32)
    assert kinds(lion) == batch | {"lr": "heuristic", "betas": "heuristic"}


def test_the_numbers_are_those_of_the_room_of_the_loss() -> None:
    assert note(SGD, "lr", 128).new == scale_lr(0.1, 128, 32)
    scaled = scale_adam(1e-3, (0.9, 0.999), 1e-8, 128, 32)
    assert (note(ADAMW, "lr", 128).new, note(ADAMW, "betas", 128).new) == (scaled.lr, scaled.betas)
    assert note(ADAMW, "eps", 128).new == pytest.approx(scaled.eps)
    for rule, lr in (("sqrt", 2e-3), ("linear", 4e-3)):
        kept = transfer(ADAMW, 128, rule=rule).recipe
        assert (kept.lr, kept.betas, kept.eps) == (lr, (0.9, 0.999), 1e-8)


@pytest.mark.parametrize("rule", ["linear", "sqrt", "adam"])
@pytest.mark.parametrize("batch_size", [8, 128, 256])
def test_a_decoupled_decay_forgets_as_much_over_the_same_items(batch_size: int, rule: Rule) -> None:
    ends = []
    for recipe in (ADAMW, transfer(ADAMW, batch_size, rule=rule).recipe):
        assert recipe.steps
        assert recipe.lr * recipe.weight_decay * recipe.steps == pytest.approx(0.0256, rel=1e-12)
        weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = build_optimizer(recipe, [weight])
        for _ in range(recipe.steps):
            weight.grad = torch.zeros(1, dtype=torch.float64)
            optimizer.step()
        ends.append(weight.item())
    assert ends[1] == pytest.approx(ends[0], rel=1e-4)


DATA = torch.randn(48, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def trained(recipe: Recipe, steps: int = 6) -> Tensor:
    """Weights after steps on a squared error, reduced as the recipe says."""
    weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = build_optimizer(recipe, [weight])
    for step in range(steps):
        rows = torch.arange(step * recipe.items_per_step, (step + 1) * recipe.items_per_step) % len(DATA)
        losses = 1e-3 * (DATA[rows] - weight).square().sum(1)
        optimizer.zero_grad()
        (losses.mean() if recipe.reduction == "mean" else losses.sum()).backward()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("rule", [None, "sqrt", "linear"])
def test_a_summed_loss_is_given_the_training_that_a_mean_has(optimizer: str, rule: Rule | None) -> None:
    """Sum = mean × items: from two recipes that are one training, the transfers are one training."""
    eps = None if optimizer == "sgd" else 1e-4
    mean = Recipe(optimizer, 0.01, 8, weight_decay=0.1, eps=eps)
    summed = Recipe(
        optimizer,
        0.01 / 8 if optimizer == "sgd" else 0.01,
        8,
        weight_decay=0.1 if optimizer == "adamw" else 0.8,
        eps=None if eps is None else 8 * eps,
        reduction="sum",
    )
    torch.testing.assert_close(trained(summed), trained(mean), rtol=1e-12, atol=0)
    for batch_size in (4, 24):
        by_sum, by_mean = (transfer(recipe, batch_size, rule=rule).recipe for recipe in (summed, mean))
        torch.testing.assert_close(trained(by_sum), trained(by_mean), rtol=1e-12, atol=0)


def test_under_the_linear_rule_the_lr_of_a_sum_stays() -> None:
    found = transfer(Recipe("sgd", 0.001, 32, reduction="sum"), 256)
    assert found.recipe.lr == 0.001
    assert "the sum carries a factor k already" in found.notes[1].why


def test_a_coupled_decay_stays_in_balance_with_the_loss() -> None:
    assert transfer(SGD, 256).recipe.weight_decay == 1e-4
    assert transfer(replace(ADAMW, optimizer="adam"), 256).recipe.weight_decay == 0.1


def test_momentum_is_kept_and_what_it_remembers_is_told() -> None:
    found = note(SGD, "momentum", 256)
    assert (found.old, found.new) == (0.9, 0.9)
    assert "remembers 320 items, then 2560" in found.why


@pytest.mark.parametrize(("batch_size", "steps", "more"), [(64, 500, 0), (48, 667, 16), (33, 970, 10), (31, 1033, 23)])
def test_steps_hold_the_same_items_rounded_up(batch_size: int, steps: int, more: int) -> None:
    found = note(SGD, "steps", batch_size)
    assert found.new == steps
    assert steps * batch_size - 32_000 == more
    assert (f"and {more} more" in found.why) == (more > 0)


# --- where a law ends


def warnings(recipe: Recipe, batch_size: int, rule: Rule | None = None, **known: float) -> str:
    return "; ".join(transfer(recipe, batch_size, rule=rule, **known).warnings)


def test_the_linear_rule_is_warned_of_beyond_what_was_seen() -> None:
    plain = Recipe("sgd", 0.1, 32)
    for batch_size in (2, 64, 512):
        assert warnings(plain, batch_size) == ""
    for batch_size in (1, 544):
        assert "seen to hold to 16 times the batch" in warnings(plain, batch_size)
    assert "under-steps" in warnings(plain, 64, "sqrt")


@pytest.mark.parametrize(("batch_size", "ends"), [(128, "0.002 and 0.004"), (8, "0.00025 and 0.0005")])
def test_adams_lr_comes_with_the_bracket_that_was_measured(batch_size: int, ends: str) -> None:
    for rule in ("adam", "sqrt", "linear"):
        assert f"lr: on digits √k under-steps and k over-steps: bracket it between {ends}" in warnings(
            ADAMW, batch_size, rule
        )


def test_a_beta_near_its_end_and_a_decay_that_is_not_small_are_warned_of() -> None:
    assert "beta1 = 0.2 averages over 1.3 steps: the limit is near" in warnings(ADAMW, 256)
    assert "beta1" not in warnings(ADAMW, 128)
    strong = replace(ADAMW, lr=0.1, weight_decay=0.5)
    assert "lr × weight_decay = 0.2 a step is not small" in warnings(strong, 128)
    assert "not small" not in warnings(strong, 32)


def test_a_batch_above_a_noise_scale_that_was_measured_is_warned_of() -> None:
    plain = Recipe("sgd", 0.1, 32)
    assert "a batch of 128 is above the noise scale 100" in warnings(plain, 128, noise_scale=100)
    assert "a batch of 32 is above the noise scale 20" in warnings(plain, 8, noise_scale=20)
    assert warnings(plain, 64, noise_scale=100) == ""


def test_betas_that_cannot_follow_are_refused_and_the_square_root_alone_is_not() -> None:
    with pytest.raises(ValueError, match="sqrt rule"):
        transfer(ADAMW, 320)
    assert transfer(ADAMW, 320, rule="sqrt").recipe.lr == pytest.approx(1e-3 * math.sqrt(10))

"""Transfers compose, are undone by the way back, and change nothing where nothing changes."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truestep.recipe import Recipe, transfer
from truestep.recipe._recipe import KNOWN
from truestep.recipe._transfer import shown

SIZES = st.integers(16, 96)
RECIPES = st.builds(
    Recipe,
    optimizer=st.sampled_from([known.name for known in KNOWN]),
    lr=st.floats(1e-6, 10),
    batch_size=SIZES,
    weight_decay=st.floats(0, 1),
    steps=st.integers(1, 10**6),
    reduction=st.sampled_from(["mean", "sum"]),
)
NUMBERS = ("lr", "weight_decay", "momentum", "betas", "eps")


def assert_same_recipe(found: Recipe, expected: Recipe) -> None:
    for name in NUMBERS:
        value = getattr(expected, name)
        near = None if value is None else pytest.approx(value, rel=1e-9, abs=1e-300)
        assert getattr(found, name) == near, name
    assert found.items_per_step == expected.items_per_step


@given(recipe=RECIPES, b=SIZES, c=SIZES)
def test_two_transfers_are_one_and_the_way_back_undoes_it(recipe: Recipe, b: int, c: int) -> None:
    there = transfer(recipe, b).recipe
    assert_same_recipe(transfer(there, recipe.batch_size).recipe, recipe)
    assert_same_recipe(transfer(there, c).recipe, transfer(recipe, c).recipe)
    back = transfer(there, recipe.batch_size).recipe.steps
    assert recipe.steps
    assert back
    assert 0 <= (back - recipe.steps) * recipe.batch_size < b + recipe.batch_size  # each way rounds up


@given(recipe=RECIPES)
def test_where_nothing_changes_every_number_is_the_same_and_exact(recipe: Recipe) -> None:
    found = transfer(recipe)
    assert found.recipe == recipe
    assert {note.kind for note in found.notes} == {"exact"}
    assert found.warnings == []


@given(recipe=RECIPES, parts=st.sampled_from([(8, 1), (4, 2), (2, 4), (1, 8)]))
def test_fewer_ranks_that_accumulate_more_are_the_same_training(recipe: Recipe, parts: tuple[int, int]) -> None:
    whole = replace(recipe, gradient_accumulation=1, world_size=8)
    accumulation, world_size = parts
    found = transfer(whole, gradient_accumulation=accumulation, world_size=world_size)
    assert found.recipe == replace(whole, gradient_accumulation=accumulation, world_size=world_size)
    assert {note.kind for note in found.notes} == {"exact"}
    assert "truestep.loss.check_accumulation" in found.notes[0].why


def test_only_the_product_counts() -> None:
    base = Recipe("adamw", 3e-4, 32, weight_decay=0.1, steps=999)
    ways: list[dict[str, Any]] = [
        {"batch_size": 128},
        {"gradient_accumulation": 4},
        {"world_size": 4},
        {"batch_size": 64, "world_size": 2},
    ]
    found = [transfer(base, **way).recipe for way in ways]
    for other in found[1:]:
        assert all(getattr(other, name) == getattr(found[0], name) for name in (*NUMBERS, "steps"))


def test_every_number_that_has_a_value_has_a_note_and_no_other() -> None:
    def named(recipe: Recipe) -> list[str]:
        return [note.name for note in transfer(recipe, 64).notes]

    assert named(Recipe("sgd", 0.1, 32)) == ["items per step", "lr"]
    full = Recipe("rmsprop", 0.1, 32, weight_decay=0.1, momentum=0.9, steps=10)
    assert named(full) == ["items per step", "lr", "betas", "eps", "weight_decay", "momentum", "steps"]


def test_what_a_transfer_does_not_speak_of_stays() -> None:
    found = transfer(Recipe("sgd", 0.1, 32, reduction="sum", world_size=2), 64).recipe
    assert (found.optimizer, found.reduction, found.world_size, found.gradient_accumulation) == ("sgd", "sum", 2, 1)
    spoken = {
        "lr",
        "batch_size",
        "weight_decay",
        "momentum",
        "betas",
        "eps",
        "steps",
        "gradient_accumulation",
        "world_size",
    }
    assert {field.name for field in fields(Recipe)} == spoken | {"optimizer", "reduction"}


@pytest.mark.parametrize("wrong", [0, -8])
def test_a_batch_that_is_none_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="`batch_size` must be a whole number of at least 1"):
        transfer(Recipe("sgd", 0.1, 32), wrong)


def test_adams_rule_is_refused_where_there_are_no_moments() -> None:
    with pytest.raises(ValueError, match="`rule` 'adam' is about Adam's moments, sgd has none: take linear or sqrt"):
        transfer(Recipe("sgd", 0.1, 32), 64, rule="adam")


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="`rule` must be one of linear, sqrt, adam; found 'cubic'"):
        transfer(Recipe("sgd", 0.1, 32), 64, rule="cubic")  # type: ignore[arg-type]


def test_it_prints_each_number_with_its_kind_and_the_warnings() -> None:
    lines = str(transfer(Recipe("sgd", 0.1, 32), 1024)).splitlines()
    assert lines[0].startswith("items per step: 32 -> 1024  (exact)")
    assert lines[1].startswith("lr: 0.1 -> 3.2  (limit law)")
    assert lines[2].startswith("warning: lr: seen to hold")


def test_a_decay_is_shown_as_far_as_it_differs_from_one() -> None:
    assert shown(0.9999875) == "0.9999875"
    assert shown(0.00012345678) == "0.0001235"
    assert (shown(None), shown(7), shown((0.9, 0.999))) == ("None", "7", "0.9 0.999")

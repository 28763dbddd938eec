"""The same training at another batch size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from truestep.recipe._laws import (
    Change,
    Note,
    Rule,
    betas_note,
    decay_note,
    eps_note,
    lr_note,
    momentum_note,
    steps_note,
)
from truestep.recipe._recipe import Family, Number, Recipe

DEFAULT: Final[dict[Family, Rule]] = {"sgd": "linear", "adam": "adam", "sign": "sqrt"}


@dataclass(frozen=True, slots=True)
class Transfer:
    """A recipe at another batch size, and what each of its numbers rests on.

    Args:
        recipe: The new one.
        notes: One for each number that has a value, changed or not.
    """

    recipe: Recipe
    notes: tuple[Note, ...]

    @property
    def warnings(self) -> list[str]:
        """Where the numbers are outside the range in which their rule was seen to hold."""
        return [f"{note.name}: {note.warning}" for note in self.notes if note.warning]

    def __str__(self) -> str:
        lines = [
            f"{note.name}: {shown(note.old)} -> {shown(note.new)}  ({note.kind}) {note.why}" for note in self.notes
        ]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def transfer(
    recipe: Recipe,
    batch_size: int | None = None,
    gradient_accumulation: int | None = None,
    world_size: int | None = None,
    rule: Rule | None = None,
    *,
    noise_scale: Number | None = None,
) -> Transfer:
    r"""Settings for the same training at another number of items per optimizer step.

    Items per step are `batch_size` × `gradient_accumulation` × `world_size`; what is not given stays as it is. Where
    their product stays, nothing changes, exactly, if the loss is divided right (`truestep.loss.check_accumulation`).
    Every other number comes with what it rests on: few are exact. Where it matters, measure: `probe`.

    Args:
        recipe: What is known to train well.
        batch_size: Items in one backward on one device.
        gradient_accumulation: Backwards that one optimizer step adds up.
        world_size: Data-parallel ranks.
        rule: "linear" (the default for SGD), "adam" (the square root with betas and eps, default for the Adam family)
            or "sqrt" (the square root alone, default for rules whose steps have a fixed length).
        noise_scale: In items, if it was measured; a batch above it is warned of.

    Returns:
        The new recipe with a note on each number; there and back is the identity, up to the rounding of `steps`.

    Raises:
        ValueError: A rule that the optimizer has no use for, or betas that cannot follow (see `scale_adam`).

    Example:
        >>> recipe = Recipe("adamw", lr=3e-4, batch_size=32, weight_decay=0.1, steps=10_000)
        >>> larger = transfer(recipe, batch_size=128)
        >>> larger.recipe.lr, larger.recipe.weight_decay, larger.recipe.steps
        (0.0006, 0.2, 2500)
        >>> [(note.name, note.kind) for note in larger.notes if note.new != note.old][:3]
        [('items per step', 'exact'), ('lr', 'limit law'), ('betas', 'limit law')]
        >>> on_eight = Recipe("sgd", 0.1, batch_size=32, world_size=8)
        >>> transfer(on_eight, world_size=2, gradient_accumulation=4).recipe.lr
        0.1
    """
    given = {"batch_size": batch_size, "gradient_accumulation": gradient_accumulation, "world_size": world_size}
    target = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    change = Change(recipe, target.items_per_step, _rule(recipe, rule))
    first, numbers = _batch_note(recipe, target), _numbers(change, noise_scale)
    if change.k == 1:
        same = "as many items per step: nothing changes"
        numbers = [Note(note.name, note.old, note.old, "exact", same) for note in numbers]
    new: dict[str, Any] = {note.name: note.new for note in numbers}
    return Transfer(replace(target, **new), (first, *numbers))


def _rule(recipe: Recipe, rule: Rule | None) -> Rule:
    family = recipe.known.family
    if rule is None:
        return DEFAULT[family]
    if rule not in get_args(Rule):
        raise ValueError(f"`rule` must be one of {', '.join(get_args(Rule))}; found {rule!r}")
    if rule == "adam" and family != "adam":
        raise ValueError(f"`rule` 'adam' is about Adam's moments, {recipe.known.name} has none: take linear or sqrt")
    return rule


def _numbers(change: Change, noise_scale: Number | None) -> list[Note]:
    """Notes on the numbers that the recipe has."""
    old, notes = change.old, [lr_note(change, noise_scale)]
    if old.betas is not None:
        notes.append(betas_note(change))
    if old.eps is not None:
        notes.append(eps_note(change))
    if old.weight_decay:
        notes.append(decay_note(change))
    if old.momentum:
        notes.append(momentum_note(change))
    if old.steps is not None:
        notes.append(steps_note(change))
    return notes


def _batch_note(old: Recipe, new: Recipe) -> Note:
    why = " -> ".join(f"{r.batch_size} x {r.gradient_accumulation} x {r.world_size}" for r in (old, new))
    if (new.gradient_accumulation, new.world_size) != (1, 1):
        why += "; one loss over all of them: truestep.loss.check_accumulation says whether it is"
    if old.batch_size != new.batch_size:
        why += "; BatchNorm sees other numbers of items"
    return Note("items per step", old.items_per_step, new.items_per_step, "exact", why)


def shown(value: Any) -> str:
    """A number to four digits, a pair of them with a space between.

    Example:
        >>> shown((0.9, 0.99999)), shown(0.0008485281), shown(10000)
        ('0.9 0.99999', '0.0008485', '10000')
    """
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    if isinstance(value, float) and 0.9 < value < 1:  # a decay: what matters is its distance from 1
        return f"{value:.8g}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""The settings of a training run that a batch size has a say in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

Number = int | float
Family = Literal["sgd", "adam", "sign"]


@dataclass(frozen=True, slots=True)
class Known:
    """An optimizer whose settings we know how to transfer.

    Args:
        name: Its class's name, in lower case.
        family: "sgd": the step is proportional to the gradient. "adam": to the gradient over its own size, per weight.
            "sign": its length does not depend on the gradient.
        decoupled: Whether the decay is beside the gradient (times the lr), not inside it.
        betas: Their defaults; None where it has none.
        eps: Its default; None where it has none.
        momentum: Whether it has one.
        torch: Its class in `torch.optim`; empty where that has none.
    """

    name: str
    family: Family
    decoupled: bool
    betas: tuple[float, float] | None = None
    eps: float | None = None
    momentum: bool = False
    torch: str = ""


KNOWN: Final = (
    Known("sgd", "sgd", decoupled=False, momentum=True, torch="SGD"),
    Known("adam", "adam", False, (0.9, 0.999), 1e-8, torch="Adam"),
    Known("adamw", "adam", True, (0.9, 0.999), 1e-8, torch="AdamW"),
    Known("nadam", "adam", False, (0.9, 0.999), 1e-8, torch="NAdam"),
    Known("radam", "adam", False, (0.9, 0.999), 1e-8, torch="RAdam"),
    Known("rmsprop", "adam", False, (0.0, 0.99), 1e-8, momentum=True, torch="RMSprop"),
    Known("lion", "sign", True, (0.9, 0.99)),
    Known("signsgd", "sign", False, momentum=True),
    Known("muon", "sign", True, momentum=True, torch="Muon"),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a training run was told: an optimizer's settings and the batch that they were chosen at.

    Items per optimizer step are `batch_size` × `gradient_accumulation` × `world_size`: with the last two left at 1,
    `batch_size` is the whole batch, else the micro-batch of one device.

    Args:
        optimizer: Its name in any case ("adamw"), or its class.
        lr: Learning rate (its peak, if a schedule multiplies it).
        batch_size: Items in one backward on one device.
        weight_decay: As the optimizer takes it; 0 for none.
        momentum: Of SGD, RMSprop, SignSGD or Muon.
        betas: Of the Adam family and Lion, by default the optimizer's own; for RMSprop (0, alpha).
        eps: Of the Adam family, by default that of the optimizer.
        steps: Optimizer steps of the whole training.
        gradient_accumulation: Backwards that one optimizer step adds up.
        world_size: Data-parallel ranks.
        reduction: Whether the loss, over all items of a step, is their "mean" or their "sum".

    Raises:
        ValueError: A value out of its range, or one that the optimizer does not have.

    Example:
        >>> recipe = Recipe("adamw", lr=3e-4, batch_size=32, weight_decay=0.1, world_size=8)
        >>> recipe.items_per_step, recipe.betas, recipe.eps
        (256, (0.9, 0.999), 1e-08)
    """

    optimizer: str | type
    lr: Number
    batch_size: int
    weight_decay: Number = 0.0
    momentum: Number = 0.0
    betas: tuple[Number, Number] | None = None
    eps: Number | None = None
    steps: int | None = None
    gradient_accumulation: int = 1
    world_size: int = 1
    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        known = self.known
        for name in ("betas", "eps"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(known, name))
            elif getattr(known, name) is None:
                raise ValueError(f"`{name}` is not a setting of {known.name}: leave it out")
        if self.momentum and not known.momentum:
            raise ValueError(f"`momentum` is not a setting of {known.name}: leave it out, or give `betas`")
        _check(self)

    @property
    def known(self) -> Known:
        """What we know of the optimizer."""
        name = (self.optimizer if isinstance(self.optimizer, str) else self.optimizer.__name__).lower()
        for known in KNOWN:
            if known.name == name:
                return known
        names = ", ".join(known.name for known in KNOWN)
        raise ValueError(f"`optimizer` must be one of {names}, or a class of such a name; found {self.optimizer!r}")

    @property
    def items_per_step(self) -> int:
        """Items whose gradients one optimizer step uses."""
        return self.batch_size * self.gradient_accumulation * self.world_size


def _check(recipe: Recipe) -> None:
    """Raise a ValueError for a number out of its range."""
    wrong: list[tuple[str, str]] = []
    if not (math.isfinite(recipe.lr) and recipe.lr > 0):
        wrong.append(("lr", "positive and finite"))
    wrong += [
        (name, "a whole number of at least 1")
        for name in ("batch_size", "steps", "gradient_accumulation", "world_size")
        if (value := getattr(recipe, name)) is not None and (isinstance(value, float) or value < 1)
    ]
    wrong += [
        (name, "0 or more, and finite")
        for name in ("weight_decay", "eps")
        if (value := getattr(recipe, name)) is not None and not (math.isfinite(value) and value >= 0)
    ]
    if not all(0 <= decay < 1 for decay in (recipe.momentum, *(recipe.betas or ()))):
        wrong.append(("momentum" if not 0 <= recipe.momentum < 1 else "betas", "at least 0 and below 1"))
    if recipe.reduction not in {"mean", "sum"}:
        wrong.append(("reduction", "mean or sum"))
    if wrong:
        name, expected = wrong[0]
        raise ValueError(f"`{name}` must be {expected}; found {getattr(recipe, name)}")

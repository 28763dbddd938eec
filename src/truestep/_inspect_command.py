"""`truestep inspect`: which weights have no scale, what weight decay does to each, and the times that this sets."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Generator, Iterable
from contextlib import redirect_stdout
from dataclasses import asdict, fields
from functools import cache
from numbers import Real
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from truestep._inspect_times import Group, GroupTimes, gradient_sizes, group_times, groups_of
from truestep._user_function import UserError, call, user_code
from truestep.invariance import Symmetries, TimeScales, find_symmetries

ARGUMENTS: Final = ("model", "batches", "loss_fn", "optimizer", "steps")
TOGETHER: Final = "a schedule for its group, if all in it decay alike: regularizes nothing"  # joint, of one sign
REQUIRED: Final = ARGUMENTS[:3]
ROLE: Final = {  # what weight decay does to a block, by its label
    "unit": "a schedule: sets the effective lr, regularizes nothing",
    "group": "a schedule: sets the effective lr, regularizes nothing",
    "tensor": "a schedule: sets the effective lr, regularizes nothing",
    "joint": "regularizes its group's product, and evens out the members",
    "no effect": "moves a value that the loss does not see",
    "sensitive": "a regularizer",
}
TIMES: Final = tuple(one.name for one in fields(TimeScales))
NAMED: Final = 4  # blocks that a group's line names


def inspect(
    target: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="Gives the model and what trains it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show which weights have no scale of their own, and what lr and weight decay mean for them.

    Found from gradients alone on a few small batches; the model is left as it was.
    Exit code 0, or 2 and one line if the function gives what cannot be used.

    The function takes nothing and returns a dict; modules of the current
    directory are found:

        # look.py
        import torch
        from train import build_model, first_batches, loss_fn

        def model():
            net = build_model()
            return dict(
                model=net,  # also compiled or under DataParallel
                batches=first_batches(8),
                loss_fn=loss_fn,  # (model, batch) -> mean or (losses, weights)
                optimizer=torch.optim.AdamW(net.parameters(), weight_decay=0.1),
                steps=20_000,  # of the run; these two are optional
            )

        truestep inspect look:model
        truestep inspect look:model --json

    Each block (a parameter tensor) gets one word for its scale:

        unit       each row may be rescaled alone and the loss stays: before a
                   norm layer. Weight decay regularizes nothing there, it sets
                   how far a step turns the row
        group      so many rows together; tensor: only the whole
        joint      only together with others: all c times (weight decay is
                   a schedule again), or c times this and 1/c times that (it
                   regularizes the product)
        no effect  the loss does not see it: a bias before a norm layer
        sensitive  the loss sees its norm; weight decay is a regularizer

    With `optimizer` (one, or a list, tuple or dict of them) and `steps`, the
    times of each parameter group over your run, for its unit, group and tensor
    blocks: how long a gradient stays in the step, when the norms settle, when
    the directions have forgotten where they were. They are known for SGD,
    SGDW, Adam, AdamW and Lion (approximate); a group without them says why.
    Under Adam with coupled decay they depend on the gradient, which is measured
    on your batches: give them the batch size of the run. At an lr of 0, where a
    warm-up begins, the lr that the schedule is set to is taken.
    """
    try:
        with redirect_stdout(sys.stderr):  # what the user's code prints is no part of the answer
            found, groups, times = _looked(target, _arguments(target, call(target)))
    except UserError as error:
        typer.echo(f"truestep: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(as_dict(found, groups, times), allow_nan=False))
    else:
        _print(found, groups, times)


def as_dict(found: Symmetries, groups: list[Group] | None, times: list[GroupTimes] | None) -> dict[str, Any]:
    """What was found as JSON knows it; what is no number is null."""
    blocks = {
        name: {"scale": scale, "weight_decay": decay, "role": role} for name, scale, decay, role in _rows(found, groups)
    }
    scales = [_as_dict(one) for one in times or []]
    return _finite({**asdict(found), "labels": found.labels(), "blocks": blocks, "time_scales": scales})


def _as_dict(one: GroupTimes) -> dict[str, Any]:
    numbers: dict[str, Any] = dict.fromkeys(TIMES) if one.times is None else asdict(one.times)
    return {
        "group": one.group.name,
        "optimizer": one.group.optimizer,
        "lr": one.lr,
        "weight_decay": one.group.weight_decay,
        "alone": one.alone,
        "reason": one.reason,
        "notes": one.notes,
        **numbers,
        "sentences": () if one.times is None else one.times.sentences,
        "blocks": {name: asdict(times) for name, times in one.blocks.items()},
    }


def _finite(value: Any) -> Any:
    """The same with null for every number that is none."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _arguments(target: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        wanted = f"a dict of {', '.join(ARGUMENTS)} (the last two optional)"
        raise UserError(f"{target} must return {wanted}, found {type(given).__name__}")
    unknown = [str(name) for name in given if name not in ARGUMENTS]
    missing = [name for name in REQUIRED if name not in given]
    if unknown or missing:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}, which is no argument"
        raise UserError(f"{target} returned a dict that {wrong}: it takes {', '.join(ARGUMENTS)}")
    steps = given.get("steps")
    if steps is not None and given.get("optimizer") is None:
        raise UserError(f"{target} gives `steps` without `optimizer`: both are needed for the time scales")
    if steps is not None and not (isinstance(steps, Real) and float(steps).is_integer() and float(steps) >= 1):
        raise UserError(f"{target} must give in `steps` the positive number of steps of the run, found {steps}")
    return given


def _looked(target: str, given: dict[str, Any]) -> tuple[Symmetries, list[Group] | None, list[GroupTimes] | None]:
    """What is to be shown: the map, the parameter groups if they are given, and their times if `steps` is."""
    model, loss_fn, taken = given["model"], given["loss_fn"], list[Any]()
    with user_code(target):
        groups = None if given.get("optimizer") is None else groups_of(given["optimizer"], model)
        found = find_symmetries(model, _kept(given["batches"], taken), loss_fn)
        if groups is None or given.get("steps") is None:
            return found, groups, None
        sizes = cache(lambda: gradient_sizes(model, taken, loss_fn, found.widths))
        return found, groups, group_times(groups, found.labels(), found.alone, int(given["steps"]), sizes)


def _kept(batches: Iterable[Any], taken: list[Any]) -> Generator[Any, None, None]:
    """The batches; those that are taken are kept, since an iterator gives them but once."""
    for batch in batches:
        taken.append(batch)
        yield batch


def _rows(found: Symmetries, groups: list[Group] | None) -> list[tuple[str, str, float | None, str]]:
    """Name, scale, weight decay and what that does, of each block; no weight decay where none is known."""
    decays = {name: group.weight_decay for group in groups or [] for name in group.params}
    rows: list[tuple[str, str, float | None, str]] = []
    for name, label in found.labels().items():
        decay = decays.get(name)
        gone = "not in the optimizer" if groups is not None and decay is None else None
        role = TOGETHER if label == "joint" and _of_one_sign(found, name) else ROLE[label]
        rows.append((name, label, decay, gone or ("none is applied" if decay == 0 else role)))
    return rows


def _of_one_sign(found: Symmetries, name: str) -> bool:
    """Whether decaying all members alike moves along every symmetry that the block is in."""
    return all(min(one.values()) > 0 or max(one.values()) < 0 for one in found.joint if name in one)


def _print(found: Symmetries, groups: list[Group] | None, times: list[GroupTimes] | None) -> None:
    console = Console(highlight=False)
    console.print(escape(str(found)), soft_wrap=True)
    table = Table("block", "scale", "weight decay", "what it does there")
    for name, label, decay, role in _rows(found, groups):
        table.add_row(escape(name), label, ("?" if groups is None else "-") if decay is None else f"{decay:g}", role)
    console.print(table)
    for one in times or []:
        group = one.group
        settings = f"{group.optimizer}, lr {one.lr:g}, weight decay {group.weight_decay:g}"
        console.print(f"[bold]{escape(group.name)}[/] ({escape(settings)}): {escape(_for_what(one))}", soft_wrap=True)
        for sentence in (*(f"Note: {note}." for note in one.notes), *(one.times.sentences if one.times else ())):
            console.print(f"  {escape(sentence)}", soft_wrap=True)
    if times is None:
        needed = "`steps`" if groups is not None else "`optimizer` and `steps`"
        console.print(f"Return {needed} too for the time scales of your run.")


def _for_what(one: GroupTimes) -> str:
    if one.reason is not None:
        return f"no times: {one.reason}"
    number = len(one.alone)
    names = f": {', '.join(one.alone)}" if number <= NAMED else ""
    return f"for its {number} block{'s' if number != 1 else ''} found invariant alone{names}"

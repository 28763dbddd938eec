"""`truestep inspect`: which weights have no scale, what weight decay does to each, and the times that this sets."""

from __future__ import annotations

import json
import math
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torch.optim import Optimizer

from truestep._user_function import UserError, call, user_code
from truestep.invariance import Symmetries, TimeScales, equilibrium, find_symmetries, time_scales

ARGUMENTS: Final = ("model", "batches", "loss_fn", "optimizer", "steps")
REQUIRED: Final = ARGUMENTS[:3]
ROLE: Final = {  # what weight decay does to a block, by its label
    "unit": "a schedule: sets the effective lr, regularizes nothing",
    "group": "a schedule: sets the effective lr, regularizes nothing",
    "tensor": "a schedule: sets the effective lr, regularizes nothing",
    "joint": "acts on what the group's product leaves free, and on the balance within it",
    "no effect": "moves a value that the loss does not see",
    "sensitive": "a regularizer",
}


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
        from train import build_model, first_batches, loss_fn

        def model():
            net = build_model()
            return dict(
                model=net,
                batches=first_batches(8),
                loss_fn=loss_fn,  # (model, batch) -> mean or (losses, weights)
                optimizer=torch.optim.AdamW(net.parameters(), weight_decay=0.1),
                steps=20_000,  # of the run; these two are optional
            )

        truestep inspect look:model
        truestep inspect look:model --json
    """
    try:
        with redirect_stdout(sys.stderr):  # what the user's code prints is no part of the answer
            given = _arguments(target, call(target))
            with user_code(target):
                found = find_symmetries(given["model"], given["batches"], given["loss_fn"])
                times = _times(given.get("optimizer"), given.get("steps"))
    except UserError as error:
        typer.echo(f"truestep: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(as_dict(found, times)))
    else:
        _print(found, times, _decays(given["model"], given.get("optimizer")))


def as_dict(found: Symmetries, times: list[TimeScales]) -> dict[str, Any]:
    """What was found as JSON knows it; what is no number is null."""
    scales = [
        {name: value if math.isfinite(value) else None for name, value in asdict(one).items()}
        | {"sentences": one.sentences}
        for one in times
    ]
    return {**asdict(found), "labels": found.labels(), "time_scales": scales}


def _arguments(target: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        wanted = f"a dict of {', '.join(ARGUMENTS)} (the last two optional)"
        raise UserError(f"{target} must return {wanted}, found {type(given).__name__}")
    unknown = [str(name) for name in given if name not in ARGUMENTS]
    missing = [name for name in REQUIRED if name not in given]
    if unknown or missing:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}, which is no argument"
        raise UserError(f"{target} returned a dict that {wrong}: it takes {', '.join(ARGUMENTS)}")
    if given.get("steps") is not None and given.get("optimizer") is None:
        raise UserError(f"{target} gives `steps` without `optimizer`: both are needed for the time scales")
    return given


def _times(optimizer: Optimizer | None, steps: int | None) -> list[TimeScales]:
    """Time scales of each parameter group; of no run without its length."""
    if optimizer is None or steps is None:
        return []
    return [time_scales(group, steps) for group in equilibrium(optimizer).groups]


def _decays(model: Any, optimizer: Optimizer | None) -> dict[str, float] | None:
    """Weight decay of each of the model's parameters, by name; None without an optimizer."""
    if optimizer is None:
        return None
    by_id = {id(p): float(group.get("weight_decay", 0)) for group in optimizer.param_groups for p in group["params"]}
    named: dict[str, Tensor] = dict(model.named_parameters())
    return {name: by_id.get(id(p), 0.0) for name, p in named.items()}


def _print(found: Symmetries, times: list[TimeScales], decays: dict[str, float] | None) -> None:
    console = Console(highlight=False)
    console.print(escape(str(found)), soft_wrap=True)
    table = Table("block", "scale", "weight decay", "what it does there")
    for name, label in found.labels().items():
        decay = None if decays is None else decays.get(name, 0.0)
        role = "none is applied" if decay == 0 else ROLE[label]
        table.add_row(escape(name), label, "?" if decay is None else f"{decay:g}", role)
    console.print(table)
    for index, one in enumerate(times):
        console.print(f"[bold]parameter group {index}[/], for its scale-invariant blocks")
        for sentence in one.sentences:
            console.print(f"  {escape(sentence)}", soft_wrap=True)
    if not times:
        console.print("Return `optimizer` and `steps` too for the time scales of your run.")

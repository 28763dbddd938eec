"""`truestep check`: the accumulation check at the command line, for a user's CI."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from truestep._user_function import UserError, call, user_code
from truestep.loss.accumulation._accumulation import AccumulationCheck, check_accumulation

ARGUMENTS: Final = ("model", "loss_fn", "micro_batches", "backward", "collate")
REQUIRED: Final = 3


def check(
    target: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="Gives the arguments of the check.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check that accumulating gradients gives that of the whole batch; if not, name the cause.

    Exit code 0 if it does, 1 if it does not, 2 if the check cannot be made
    or nothing can be judged (no kept target, a loop of noise). A right loop of
    a model with BatchNorm in training mode is 1, since no split is exact:
    return the model with its BatchNorm in eval mode to have the loop judged.

    The function takes nothing and returns the arguments of check_accumulation,
    as a dict or a tuple; modules of the current directory are found:

        # window.py
        from train import accumulate, build_model, first_batches, loss_fn

        def window():
            return dict(
                model=build_model(),
                loss_fn=loss_fn,  # (model, batch) -> mean or (losses, weights)
                micro_batches=first_batches(4),  # those of one step
                backward=accumulate,  # (model, micro_batches): no step
            )

        truestep check window:window
        truestep check window:window --json
    """
    try:
        found = _checked(target)
    except UserError as error:
        typer.echo(f"truestep: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(as_dict(found)))
    else:
        _print(found)
    raise typer.Exit(0 if found.ok else 1 if found.judged else 2)


def as_dict(found: AccumulationCheck) -> dict[str, Any]:
    """The check as JSON knows it; what is no number is null."""
    numbers = {name: getattr(found, name) for name in ("ratio", "factor", "cosine", "relative_error")}
    numbers |= {"floor": found.floor, "tolerance": found.tolerance}
    return {
        "ok": found.ok,
        "judged": found.judged,
        "micro_batches": found.evidence.window.num_micro_batches,
        **{name: value if abs(value) < float("inf") else None for name, value in numbers.items()},
        "cause": found.cause,
        "remedy": found.remedy,
        "short": None if found.short is None else as_dict(found.short),
    }


def _checked(target: str) -> AccumulationCheck:
    with redirect_stdout(sys.stderr):  # what the user's code prints is no part of the answer
        arguments = _arguments(target, call(target))
        with user_code(target):
            return check_accumulation(**arguments)


def _arguments(target: str, given: Any) -> dict[str, Any]:
    """The check's arguments by name, from a dict or a tuple."""
    if isinstance(given, tuple) and REQUIRED <= len(given) <= len(ARGUMENTS):
        return dict(zip(ARGUMENTS, given, strict=False))
    if not isinstance(given, dict):
        found = f"a tuple of {len(given)}" if isinstance(given, tuple) else type(given).__name__
        msg = f"{target} must return a dict or a tuple of {', '.join(ARGUMENTS)} (the last two optional), found {found}"
        raise UserError(msg)
    unknown = [str(name) for name in given if name not in ARGUMENTS]
    missing = [name for name in ARGUMENTS[:REQUIRED] if name not in given]
    if unknown or missing:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}, which is no argument"
        msg = f"{target} returned a dict that {wrong}: it takes {', '.join(ARGUMENTS)}"
        raise UserError(msg)
    return given


def _print(found: AccumulationCheck) -> None:
    table = Table("", "micro-batches", "ratio", "cosine", "relative error", "same up to")
    for name, part in (("window", found), ("first half", found.short)):
        if part is not None:
            numbers = [f"{part.ratio:.4f}", f"{part.cosine:.6f}", f"{part.relative_error:.2g}", f"{part.tolerance:.1g}"]
            table.add_row(name, str(part.evidence.window.num_micro_batches), *numbers)
    console = Console(highlight=False)
    console.print(table)
    wrong = ("red", "wrong") if found.judged else ("yellow", "not judged")
    color, verdict = ("green", "right") if found.ok else wrong
    console.print(f"[{color}]{verdict}[/] {escape(found.cause)}", soft_wrap=True)
    if found.remedy:
        console.print(f"[bold]to do[/] {escape(found.remedy)}", soft_wrap=True)

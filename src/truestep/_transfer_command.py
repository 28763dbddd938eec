"""`truestep transfer`: the settings of the same training at another batch size."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from truestep._user_function import UserError, call, user_code
from truestep.recipe import Probe, Recipe, Transfer, probe
from truestep.recipe import transfer as transferred
from truestep.recipe._recipe import KNOWN
from truestep.recipe._transfer import shown

NEW: Final = ("--to", "--to-gradient-accumulation", "--to-world-size")
COLORS: Final = {"exact": "green", "limit law": "yellow", "heuristic": "red"}


class Rules(StrEnum):
    """What `--rule` takes; typer below 0.19 knows no literals."""

    LINEAR = "linear"
    SQRT = "sqrt"
    ADAM = "adam"


class Reductions(StrEnum):
    """What `--reduction` takes."""

    MEAN = "mean"
    SUM = "sum"


def transfer(
    optimizer: Annotated[str, typer.Option(help="sgd, adam, adamw, nadam, radam, rmsprop, lion, signsgd or muon.")],
    lr: Annotated[float, typer.Option(help="Learning rate, of a mean loss.")],
    batch_size: Annotated[int, typer.Option(help="Items in one backward on one device.")],
    to: Annotated[int | None, typer.Option(help="The new batch size; as it was if not given.")] = None,
    gradient_accumulation: Annotated[int, typer.Option(help="Backwards per optimizer step.")] = 1,
    to_gradient_accumulation: Annotated[
        int | None, typer.Option(help="The new number; as it was if not given.")
    ] = None,
    world_size: Annotated[int, typer.Option(help="Data-parallel ranks.")] = 1,
    to_world_size: Annotated[int | None, typer.Option(help="The new number; as it was if not given.")] = None,
    weight_decay: Annotated[float, typer.Option(help="As the optimizer takes it.")] = 0.0,
    momentum: Annotated[float, typer.Option(help="Of SGD and its like.")] = 0.0,
    betas: Annotated[
        tuple[float, float] | None, typer.Option(help="Two numbers; the optimizer's own if not given.")
    ] = None,
    eps: Annotated[float | None, typer.Option(help="The optimizer's own if not given.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of the whole training.")] = None,
    reduction: Annotated[Reductions, typer.Option(help="What the loss is over all items of a step.")] = Reductions.MEAN,
    rule: Annotated[Rules | None, typer.Option(help="The optimizer's own if not given.")] = None,
    noise_scale: Annotated[float | None, typer.Option(help="In items, if known; larger batches are warned of.")] = None,
    probe_target: Annotated[
        str | None, typer.Option("--probe", metavar="MODULE:FUNCTION", help="Measure both recipes on this problem.")
    ] = None,
    probe_steps: Annotated[int, typer.Option(help="Steps of the larger batch to measure.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what a recipe becomes at another batch size, and what each number rests on.

    Items per step are batch size x gradient accumulation x world size; at least one of them has a new number.

        truestep transfer --optimizer sgd --lr 0.1 --momentum 0.9 --batch-size 256 --to 1024
        truestep transfer --optimizer adamw --lr 3e-4 --batch-size 32 --to 128 --weight-decay 0.1 --steps 10000
        truestep transfer --optimizer adamw --lr 3e-4 --batch-size 32 --world-size 8 --to-world-size 2

    With --probe both are run on your own training, from the same weights:

        # problem.py
        def problem():
            return dict(
                model=build_model(),
                batches=lambda size: DataLoader(data, size, shuffle=True, drop_last=True),
                loss_fn=loss_fn,  # (model, batch) -> mean or (losses, weights)
            )

        truestep transfer --optimizer adamw --lr 3e-4 --batch-size 32 --to 128 --probe problem:problem
    """
    try:
        if (to, to_gradient_accumulation, to_world_size) == (None, None, None):
            raise UserError(f"give one of {', '.join(NEW)}: without, nothing changes")
        old = Recipe(
            optimizer, lr, batch_size, weight_decay, momentum, betas, eps, steps,
            gradient_accumulation, world_size, reduction.value,
        )  # fmt: skip
        law = None if rule is None else rule.value
        found = transferred(old, to, to_gradient_accumulation, to_world_size, law, noise_scale=noise_scale)
        measured = None if probe_target is None else _probed(probe_target, old, found.recipe, probe_steps)
    except (ValueError, UserError) as error:
        typer.echo(f"truestep: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(_as_dict(found, measured)))
    else:
        _print(found, measured)


def _probed(target: str, old: Recipe, new: Recipe, steps: int) -> Probe:
    """The probe of the user's problem, with a progress bar on stderr."""
    _refuse_what_cannot_run(old)
    columns = (TextColumn("three runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with redirect_stdout(sys.stderr):  # what the user's code prints is no part of the answer
        problem = call(target)
        if not isinstance(problem, dict):
            raise UserError(
                f"{target} must return a dict with model, batches and loss_fn, found {type(problem).__name__}"
            )
        with user_code(target), Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task("", total=3 * steps)
            return probe(problem, old, new, steps, on_step=lambda done, _: progress.update(bar, completed=done))


def _refuse_what_cannot_run(recipe: Recipe) -> None:
    """Raise for an optimizer that torch does not have, before the user's code is loaded."""
    names = [known.name for known in KNOWN if hasattr(torch.optim, known.torch or "missing")]
    if recipe.known.name not in names:
        raise UserError(
            f"--probe runs torch's own optimizers: {', '.join(names)}; found {recipe.known.name}, "
            "which truestep.recipe.probe runs in Python, given a Recipe with its class"
        )


def _as_dict(found: Transfer, measured: Probe | None) -> dict[str, Any]:
    """Everything as JSON knows it; a ratio that is not resolved has null for value and upper end."""
    return {
        "recipe": asdict(found.recipe),
        "items_per_step": found.recipe.items_per_step,
        "notes": [asdict(note) for note in found.notes],
        "probe": None if measured is None else _no_nan(asdict(measured)),
    }


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [_no_nan(entry) for entry in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _print(found: Transfer, measured: Probe | None) -> None:
    console = Console(highlight=False)
    table = Table("", "old", "new", "", "rests on")
    for note in found.notes:
        kind = f"[{COLORS[note.kind]}]{note.kind}[/]"
        table.add_row(note.name, shown(note.old), shown(note.new), kind, escape(note.why))
    console.print(table)
    for warning in found.warnings:
        console.print(f"[yellow]warning[/] {escape(warning)}", soft_wrap=True)
    if measured is not None:
        _print_probe(measured, console)


def _print_probe(measured: Probe, console: Console) -> None:
    table = Table("way over equal items, new / old", "ratio [95 %]")
    rows = {"all weights": measured.ratio, "the old recipe on other batches": measured.control}
    for name, ratio in (rows | measured.blocks).items():
        table.add_row(escape(name), escape(str(ratio)))
    console.print(table)
    console.print(escape(str(measured)), soft_wrap=True)

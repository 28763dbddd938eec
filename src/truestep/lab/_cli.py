"""`truestep lab list | run | report`: the lab at the command line."""

from __future__ import annotations

import difflib
import importlib
import shlex
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, NoReturn

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from truestep.core._extra import lab_extra
from truestep.lab import _results
from truestep.lab._claim import Claim, Verdict
from truestep.lab._report import html, markdown, summary
from truestep.lab._results import COMMITTED, Result, changes, judged
from truestep.lab._runner import Measured, Trial, cores, process_pool, run_trials
from truestep.lab.claims import CLAIMS

COLORS = {
    Verdict.SUPPORTED: "green",
    Verdict.PARTLY: "yellow",
    Verdict.REFUTED: "red",
    Verdict.INCONCLUSIVE: "bright_black",
}
RESULTS = "results"  # under the work directory, where a run writes if it is not told otherwise

lab_app = typer.Typer(
    name="lab",
    add_completion=False,
    no_args_is_help=True,
    help="""Judge the claims of the sources: a sentence, a threshold written before the run, seeds, a verdict.

    `list` shows what there is, `run growing_norm` runs one claim, `report` shows the committed verdicts.""",
)


@lab_app.command("list")
def list_claims() -> None:
    """List the claims with their sentences and committed verdicts."""
    _console().print(_table([(claim, _committed(COMMITTED, claim)) for claim in CLAIMS]))


@lab_app.command()
def run(
    names: Annotated[list[str] | None, typer.Argument(metavar="CLAIM", help="Which claims; all if none.")] = None,
    *,
    seeds: Annotated[
        int | None, typer.Option(help="Seeds 0 to N-1 for each claim; each claim's own number if not given.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run, as torch names it: cpu, cuda, cuda:1.")] = "cpu",
    workers: Annotated[
        int | None, typer.Option(help="Processes that share the cores; one per core if not given.")
    ] = None,
    work_dir: Annotated[
        Path, typer.Option(help="Keeps each finished seed; the next run does only what is missing.")
    ] = Path("lab-runs"),
    out: Annotated[Path | None, typer.Option(help="Where results go; WORK_DIR/results if not given.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write to the results that are committed with truestep.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again also what is finished.")] = False,
) -> None:
    """Run claims and say what changed against the committed results.

    Seeds run side by side, in processes of their own.
    Stop with Ctrl-C at any time: the same command goes on from there.
    The exit code is 1 if a seed failed, whatever the verdicts are.

    For example:

        truestep lab run
        truestep lab run growing_norm --seeds 16 --workers 4
        truestep lab run --update
    """
    claims = _pick(names or [])
    results = COMMITTED if update else out or work_dir / RESULTS
    _check(claims, device, seeds, workers, update)
    _make_writable(work_dir, results)
    trials = [Trial(claim, seed, device) for claim in claims for seed in range(seeds or claim.seeds)]
    try:
        done = _run_with_progress(trials, work_dir, workers or cores(), fresh)
    except KeyboardInterrupt:
        again = shlex.join(["truestep", "lab", "run", *(claim.name for claim in claims)])
        typer.echo(
            f"stopped; what is finished is in {work_dir}. To go on: {again} (same options, no --fresh)", err=True
        )
        raise typer.Exit(130) from None
    _judge_and_compare(done, results)
    if any(measured.error for _, measured in done):
        raise typer.Exit(1)


@lab_app.command()
def report(
    results: Annotated[
        Path, typer.Option(help="Read results from here, such as lab-runs/results; the committed ones if not given.")
    ] = COMMITTED,
    page: Annotated[
        Path | None, typer.Option("--html", help="Write one page with sentences, verdicts and figures.")
    ] = None,
    table: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/verdicts.md.")] = False,
    brief: Annotated[
        bool, typer.Option("--summary", help="Print the README's table: the claims of each verdict.")
    ] = False,
) -> None:
    """Show the verdicts as a table, a Markdown table or a page."""
    found = [(claim, _committed(results, claim)) for claim in CLAIMS]
    there = [result for _, result in found if result is not None]
    if not there:
        _fail(f"no results in {results}: `truestep lab run` makes them.")
    if page is not None:
        try:
            page.write_text(html(there, results), encoding="utf-8")
        except OSError as error:
            _fail(f"cannot write `--html`: {error}")
        typer.echo(page)
    if table:
        typer.echo(markdown(there))
    if brief:
        typer.echo(summary(there, "docs/verdicts.md"))
    if page is None and not table and not brief:
        _console().print(_table(found, reasons=True))


def _pick(names: Sequence[str]) -> list[Claim]:
    """The claims of these names, all if there are none."""
    by_name = {claim.name: claim for claim in CLAIMS}
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)
            _fail(f"no claim is named `{name}`. Did you mean `{near[0]}`? `truestep lab list` shows all.")
    return [by_name[name] for name in dict.fromkeys(names)] or list(CLAIMS)


def _check(claims: Sequence[Claim], device: str, seeds: int | None, workers: int | None, update: bool) -> None:
    """Refuse, before hours of work, what cannot end well."""
    if seeds is not None and seeds < 2:
        _fail(f"`--seeds` must be at least 2, for an interval. Found {seeds}.")
    if workers is not None and workers < 1:
        _fail(f"`--workers` must be at least 1. Found {workers}.")
    needed = max(claim.seeds for claim in claims)
    if update and seeds is not None and seeds < needed:
        _fail(f"`--update` needs at least {needed} seeds, as the committed results have. Found `--seeds {seeds}`.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        _fail(f"`--device {device}` cannot be used: {str(error).splitlines()[0]}")
    try:
        with lab_extra("the lab"):
            for package in ("sklearn", "matplotlib", "scipy"):
                importlib.import_module(package)
    except ImportError as error:
        _fail(str(error))


def _make_writable(*directories: Path) -> None:
    """Make the directories, or refuse before hours of work."""
    for directory in directories:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            _fail(f"cannot write to {directory}: {error.strerror}. Choose another with `--work-dir` or `--out`.")


def _run_with_progress(
    trials: Sequence[Trial], work_dir: Path, workers: int, fresh: bool
) -> list[tuple[Trial, Measured]]:
    """Run the trials on a process pool, a progress bar for each claim."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_console()) as progress, process_pool(workers, len(trials)) as pool:
        names = [trial.claim.name for trial in trials]
        bars = {name: progress.add_task(name, total=names.count(name)) for name in dict.fromkeys(names)}

        def on_done(trial: Trial, measured: Measured) -> None:
            if measured.error:
                progress.console.print(
                    f"[red]{trial.claim.name}, seed {trial.seed} failed:[/] {escape(measured.error)}"
                )
            progress.advance(bars[trial.claim.name])

        return run_trials(trials, work_dir, pool, fresh=fresh, on_done=on_done)


def _judge_and_compare(done: Sequence[tuple[Trial, Measured]], directory: Path) -> None:
    """Judge each claim whose seeds are all there, write its result, and print what changed."""
    console = _console()
    for claim, group in groupby(done, key=lambda pair: pair[0].claim):
        trials = list(group)
        failed = [trial.seed for trial, measured in trials if measured.error]
        if failed:
            console.print(f"[bold]{claim.name}[/] not judged: {len(failed)} of {len(trials)} seeds failed")
            continue
        result = judged(claim, trials)
        before = _committed(COMMITTED, claim)
        _results.write(result, claim, directory)
        console.print(f"[bold]{claim.name}[/] {_colored(result)}  {escape(result.reason)}")
        for sentence in changes(before, result) or ["unchanged against the committed result"]:
            console.print(f"  {escape(sentence)}")
    console.print(f"results: {directory}", soft_wrap=True)


def _table(rows: Sequence[tuple[Claim, Result | None]], *, reasons: bool = False) -> Table:
    """Claims with their verdicts, and the source's sentence or the reason."""
    table = Table("claim", "verdict", *(["why"] if reasons else ["source", "sentence"]), show_lines=True)
    for claim, result in rows:
        verdict = _colored(result) if result else "not run"
        told = [result.reason if result else ""] if reasons else [claim.source, claim.sentence]
        table.add_row(claim.name, verdict, *map(escape, told))
    return table


def _committed(directory: Path, claim: Claim) -> Result | None:
    try:
        return _results.read(directory, claim.name)
    except ValueError as error:
        _fail(str(error))


def _colored(result: Result) -> str:
    return f"[{COLORS[result.verdict]}]{result.verdict}[/]"


def _console() -> Console:
    return Console(highlight=False)  # made when asked: it follows a redirected stdout


def _fail(message: str) -> NoReturn:
    """End with one line on stderr and exit code 2."""
    typer.echo(f"truestep lab: {message}", err=True)
    raise typer.Exit(2)

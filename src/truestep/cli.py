"""`truestep demo | report | check | inspect | transfer | compare | lab`: the command line."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

try:
    import typer
    from rich.console import Console
except ImportError as error:  # the command is installed with the library, its packages with an extra
    sys.exit(f"truestep's command line needs `{error.name}`: pip install 'truestep[cli]'")

from truestep import __version__
from truestep._check_command import check
from truestep._compare_command import compare
from truestep._inspect_command import inspect
from truestep._transfer_command import transfer
from truestep.monitor import Run, load_run, write_report

USAGE_ERROR: Final[Any] = typer.BadParameter.__mro__[2]  # ClickException, of click or of the copy that typer carries

app = typer.Typer(
    name="truestep",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Know, set and compare the step your network really takes.

    `truestep demo` shows it on real data in a minute; `truestep report RUN` writes the page of a run that
    `truestep.watch(model, optimizer, "RUN")` recorded; `truestep lab list` shows which claims hold.""",
)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"truestep {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Gets the two run records and the report.")] = Path(
        "demo-runs"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Steps of each of the two runs.")] = 1600,
    seed: Annotated[int, typer.Option(help="Of the weights and of the data's order.")] = 0,
) -> None:
    """Train a small CNN on real digits twice, weight decay off and on, and show asked against taken.

    1797 images that ship with scikit-learn, nothing is downloaded; about a minute at most on two cores.

        truestep demo
        truestep demo --steps 400 --seed 1 --dir runs/demo
    """
    try:
        from truestep.lab.demo import show
    except ImportError as error:
        _fail(f"the demo needs `{error.name}`: pip install 'truestep[lab]'")
    try:
        show(directory, steps=steps, seed=seed, console=Console())
    except (OSError, ValueError, ImportError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail(f"stopped; what was recorded is in {directory}: `truestep report {directory}/*/` shows it", code=130)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories (or run.db files); several are compared.")
    ],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the first run's directory.")] = None,
) -> None:
    """Write one self-contained HTML page about one run, or several compared.

    Works while a run is still going, and after it was killed.

        truestep report runs/first
        truestep report runs/first runs/second --out both.html
    """
    first = runs[0] if runs[0].is_dir() else runs[0].parent
    try:
        with ExitStack() as opened:
            records = [opened.enter_context(load_run(run)) for run in runs]
            try:
                typer.echo(write_report(records, out or first / "report.html"))
            except (TypeError, LookupError):
                _check(records)
                raise
    except (OSError, ValueError, ImportError) as error:
        _fail(str(error))
    except sqlite3.Error as error:
        _fail(f"{', '.join(map(str, runs))} cannot be read ({error}); is it a whole record of a watched run?")


def _check(records: Sequence[Run]) -> None:
    """Raise ValueError if a record is damaged: what was read from it made no sense."""
    for record in records:
        if (verdict := record.query("PRAGMA quick_check(1)")) != [("ok",)]:
            msg = f"{record.where} is damaged ({verdict[0][0]})"
            raise ValueError(msg)


def _fail(message: str, code: int = 2) -> NoReturn:
    typer.echo(f"truestep: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


def _mount_lab() -> None:
    from truestep.lab._cli import lab_app

    app.add_typer(lab_app)


app.command()(check)
app.command()(inspect)
app.command()(transfer)
app.command()(compare)
_mount_lab()


def main() -> None:
    """Run the command line; what a user did wrong is one line and exit code 2."""
    try:
        code = app(prog_name="truestep", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except USAGE_ERROR as error:
        sys.exit(_told(error))
    sys.exit(code if isinstance(code, int) else 0)


def _told(error: Any) -> int:
    """Say what is wrong and what to do; returns the exit code."""
    message = " ".join(error.format_message().split())
    command = error.ctx.command_path if getattr(error, "ctx", None) else "truestep"
    if type(error).__name__ == "NoArgsIsHelpError":  # a bare `truestep`: its help was printed, or is the message
        typer.echo(error.format_message(), err=True)
    else:
        typer.echo(f"{command}: {message.removesuffix('.')}; see `{command} --help`", err=True)
    return error.exit_code

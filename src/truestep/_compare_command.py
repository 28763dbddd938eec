"""`truestep compare`: whether one optimizer is better than another, or only faster a step."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from truestep._user_function import UserError, call

STORE: Final = Path("compare.db")
PAGE: Final = Path("compare.html")
NORMS: Final[tuple[tuple[Any, Any], ...]] = (
    ("l2", "global"),
    ("relative", "tensor"),
)  # no norm is neutral, so never one alone


def compare(
    optimizers: Annotated[
        list[str] | None,
        typer.Argument(metavar="A B [C...]", help="Names, with settings where you like: adam:lr=3e-4."),
    ] = None,
    *,
    problem: Annotated[str, typer.Option(help="A name from --list, or MODULE:FUNCTION of yours.")] = "digits-mlp",
    seeds: Annotated[int, typer.Option(help="Runs of everything that is compared; 2 or more.")] = 8,
    steps: Annotated[int | None, typer.Option(help="Of each run; the problem's own number if not given.")] = None,
    margin: Annotated[
        float, typer.Option(help="Curves that differ by less count as equal, in nats of the loss: 0.05 is 5 %.")
    ] = 0.05,
    both: Annotated[bool, typer.Option("--both", help="Of two: test also whether A is B sped up.")] = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="Of three or more: test also whether each is the first one sped up.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help=f"The page; {PAGE} if not given.")] = None,
    store: Annotated[Path, typer.Option(help="Keeps each finished run; what it has is not run again.")] = STORE,
    workers: Annotated[int | None, typer.Option(help="Processes; one a core if not given, 0 for this one.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; the page is then written only with --out.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show the optimizers and problems there are.")] = False,
) -> None:
    """Tell whether an optimizer is better, or only faster a step.

    Two optimizers: is B just A at another lr? A is trained at many multiples
    of its lr; if one of them gives B's loss curve, B is A SPED-UP. Then their
    parts are swapped: what does the length of B's steps do to the loss, and
    what their direction?

        truestep compare adam adabelief
        truestep compare sgd:lr=0.003 momentum:lr=0.003 --problem digits-logistic
        truestep compare adam:lr=3e-4 adam:lr=3e-3

    Three or more: their order at their default lr, each at its best lr, with
    steps of equal length (in two norms), and under unit loss; how sure each
    rank is, and what it depends on.

        truestep compare sgd momentum adam adabelief lion --speed

    An optimizer is a name from --list, or a class or function of any module
    that can be imported: po:SOAP is pytorch_optimizer's. Settings follow a
    colon, as Python writes them:

        truestep compare adam:lr=1e-3,betas=(0.9,0.99) train:my_optimizer

    A problem of your own is a function that gives a truestep.compare.Problem;
    modules of the current directory are found. `supervised` makes one in a few
    lines:

        # mine.py
        from torch import nn
        from truestep.compare.problems import cross_entropy_loss, seeded, supervised

        def build(seed):
            with seeded(seed):
                return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3))

        def problem():  # load() gives inputs and targets, two tensors
            return supervised("mine", load, build, cross_entropy_loss, target=0.1, max_steps=500)

        truestep compare adam lion --problem mine:problem

    Runs are kept in the store: stop with Ctrl-C at any time, and the same
    command goes on from there. Exit code 0 whatever the verdict is, 1 if runs
    failed, 2 if nothing can be compared.
    """
    if listed:
        _list()
        return
    asked = _Asked(seeds, steps, margin, both, speed, store, workers)
    page = out if as_json else out or PAGE
    try:
        _check(asked, page)
        with _importable_here(), redirect_stdout(sys.stderr):  # what a user's code prints is no part of the answer
            found = _compared(optimizers or [], problem, asked)
        _tell(found, page, as_json)
    except sqlite3.Error as error:
        _fail(f"the store {store} cannot be used: {error}; name another with --store", 2)
    except (ValueError, ImportError, OSError) as error:
        _fail(str(error), 2)
    except RuntimeError as error:  # runs that failed, or workers that died; whatever finished is in the store
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail(f"stopped; what is finished is in {store}: go on with the same command", 130)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the options say about how to compare."""

    seeds: int
    steps: int | None
    margin: float
    both: bool
    speed: bool
    store: Path
    workers: int | None


def _check(asked: _Asked, page: Path | None) -> None:
    """Refuse at once what would fail only in a worker, or after minutes of runs."""
    from truestep._page import check_page

    if asked.steps is not None and asked.steps < 1:
        raise UserError(f"`--steps` must be at least 1, found {asked.steps}")
    if page is not None:
        check_page(page, "a comparison's page")


def _compared(optimizers: list[str], problem_text: str, asked: _Asked) -> dict[str, Any]:
    """What `write_comparison` takes: results by their kind."""
    from truestep.compare.sweep import Sweep

    factories = _optimizers(optimizers)
    problem = _problem(problem_text)
    with Sweep(asked.store, workers=asked.workers) as sweep:
        if len(factories) == 2:
            return _pair(problem, *(factory for _, factory in factories), asked=asked, sweep=sweep)
        return _several(problem, dict(factories), asked, sweep)


def _pair(problem: Any, a: Any, b: Any, *, asked: _Asked, sweep: Any) -> dict[str, Any]:
    from truestep.compare.speed import speed_test
    from truestep.compare.swap import swap_test

    length: dict[str, Any] = {"seeds": asked.seeds, "steps": asked.steps, "sweep": sweep}
    tests = [speed_test(problem, a, b, margin=asked.margin, **length)]
    if asked.both or tests[0].verdict == "UNBOUNDED":
        tests.append(speed_test(problem, b, a, margin=asked.margin, **length))
    return {"speed": tests, "swap": [swap_test(problem, a, b, norm=n, scope=s, **length) for n, s in NORMS]}


def _several(problem: Any, factories: dict[str, Any], asked: _Asked, sweep: Any) -> dict[str, Any]:
    from truestep.compare.rank import ranking
    from truestep.compare.speed import speed_test

    length: dict[str, Any] = {"seeds": asked.seeds, "steps": asked.steps, "sweep": sweep}
    found: dict[str, Any] = {"ranking": ranking(problem, factories, norms=NORMS, **length)}
    if asked.speed:
        first, *others = factories.values()
        found["speed"] = [speed_test(problem, first, other, margin=asked.margin, **length) for other in others]
    return found


def _optimizers(texts: list[str]) -> list[tuple[str, Any]]:
    from truestep.compare._named import parse_optimizer

    if len(texts) < 2:
        raise UserError("name two optimizers or more, as in `truestep compare adam adabelief`; --list shows them")
    found: list[tuple[str, Any]] = []
    for text in texts:
        try:
            found.append(parse_optimizer(text))
        except (ValueError, ImportError):
            raise
        except Exception as error:
            raise UserError(f"`{text}` raised {type(error).__name__}: {error}") from error
    labels = [label for label, _ in found]
    if len(found) > 2 and len(set(labels)) < len(labels):
        raise UserError(f"an order needs different optimizers, found {', '.join(labels)}")
    return found


def _problem(text: str) -> Any:
    """One of ours by its name, or what a user's function gives."""
    from truestep.compare._named import parse_problem, problem_name
    from truestep.compare.problems import PROBLEMS, Problem

    head = text.partition(":")[0].strip().replace("_", "-")
    if ":" not in text or head in {problem_name(make) for make in PROBLEMS}:
        return parse_problem(text)
    found = call(text)
    if not isinstance(found, Problem):
        raise UserError(f"{text} must return a truestep.compare.Problem, found {type(found).__name__}")
    return found


@contextmanager
def _importable_here() -> Generator[None, None, None]:
    """Modules of the current directory can be imported, also by the processes that are started meanwhile."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _tell(found: dict[str, Any], page: Path | None, as_json: bool) -> None:
    from truestep.compare.report import print_comparison, write_comparison
    from truestep.compare.report._plain import as_dict

    if as_json:
        typer.echo(json.dumps(as_dict(**found), allow_nan=False))
    else:
        print_comparison(Console(highlight=False), **found)
    if page is not None:
        written = write_comparison(page, **found)
        typer.echo(written, err=as_json)


def _list() -> None:
    from truestep.compare._named import OPTIMIZERS, problem_name
    from truestep.compare.problems import PROBLEMS

    console = Console(highlight=False)
    table = Table("optimizer", "lr", "what it follows")
    for one in OPTIMIZERS:
        table.add_row(one.name, f"{one.lr:g}", escape(one.about))
    console.print(table)
    table = Table("problem", "solved at a loss of", "steps", "what it is")
    for make in PROBLEMS:
        problem, about = make(), re.split(r"[;.](?: |$)", (make.__doc__ or "").strip().partition("\n")[0])[0]
        table.add_row(problem_name(make), f"{problem.target:.3g}", f"{problem.max_steps:,}", escape(about))
    console.print(table)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"truestep: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)

"""GradNorm's toy: ways to weigh tasks whose scales differ by 100, each at its best lr; and what alpha does.

    python examples/gradnorm_toy.py toy               # the methods side by side
    python examples/gradnorm_toy.py alpha             # GradNorm alone, over alpha

Each finished run is a file in --work-dir: a command that was stopped goes on where it was, and changed sources are run
again. Writes examples/results/gradnorm_<what>.json and docs/_static/gradnorm-<what>.png (--out: both there), and
prints the table. The setting is described in `truestep.lab.toy`.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from rich.progress import track

import truestep
from truestep.lab import toy as lab_toy
from truestep.lab._figure import GREY, PALETTE, STYLE
from truestep.lab._sources import fingerprint
from truestep.lab._toy_methods import dwa, equal, fixed, gradnorm, oracle, uncertainty, unit
from truestep.lab.toy import Build, Course, make_toy, scales, train

ROOT = Path(__file__).resolve().parents[1]
STEPS = {2: 900, 10: 700}  # by number of tasks, as the grid of lrs
LRS = {2: (1e-3, 4e-3, 8e-3), 10: (4e-3, 8e-3)}
ALPHAS = (0.0, 0.12, 0.5, 1.0, 1.5, 2.0, 3.0)
UW = "UW, lr of s as the net's"  # as where s is handed to the net's optimizer
STATIC = "static weights of GradNorm, retrained"

TABLE: dict[str, Build | None] = {  # None: it depends on more, see `Run.build`
    "equal weights": equal,
    UW: None,
    "UW, lr of s 0.1": uncertainty(0.1),
    "DWA": dwa,
    "GradNorm": gradnorm(),
    "GradNorm, at the features": gradnorm(at_weight=False),
    "GradNorm, the paper's solver": gradnorm(solve="gradient"),
    STATIC: None,
    "UnitNorm": unit,
    "oracle, 1/sigma²": oracle,
}
SWEEP: dict[str, Build | None] = {"equal weights": equal} | {f"alpha {alpha:g}": gradnorm(alpha) for alpha in ALPHAS}
METHODS = {"toy": TABLE, "alpha": SWEEP}


@dataclass(frozen=True, slots=True)
class Run:
    """One training, and the folder that it is kept in."""

    folder: str
    what: str
    method: str
    tasks: int
    steps: int
    lr: float
    seed: int

    @property
    def path(self) -> Path:
        """Where its result lies."""
        method = "".join(c if c.isalnum() or c == "." else "-" for c in self.method)
        return Path(self.folder) / f"{method}-T{self.tasks}-{self.steps}-lr{self.lr:g}-{self.seed}.json"

    @property
    def source(self) -> Run | None:
        """The run whose weights it takes, if it takes any."""
        return Run(**asdict(self) | {"method": "GradNorm"}) if self.method == STATIC else None

    def build(self) -> Build:
        """Its balancer."""
        if self.source:
            return fixed(read(self.source).static)
        return METHODS[self.what][self.method] or uncertainty(self.lr)


def read(run: Run) -> Course:
    """A finished run."""
    return Course(**json.loads(run.path.read_text()))


def work(run: Run) -> None:
    """Train, and write the result in one motion."""
    torch.set_num_threads(1)
    course = train(make_toy(scales(run.tasks), run.seed), run.build(), lr=run.lr, steps=run.steps, seed=run.seed)
    partial_file = run.path.with_suffix(".partial")
    partial_file.write_text(json.dumps(asdict(course)))
    partial_file.replace(run.path)


def finish(runs: Sequence[Run], workers: int) -> None:
    """Do what is missing, first the runs that others take weights from."""
    missing = [run for run in runs if not run.path.exists()]
    for stage in ([run for run in missing if not run.source], [run for run in missing if run.source]):
        if workers == 1:
            for run in track(stage, "training"):
                work(run)
        elif stage:
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                done = as_completed([pool.submit(work, run) for run in stage])
                for future in track(done, "training", len(stage)):
                    future.result()


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """One method at one number of tasks: the lr with the lowest mean, and there mean, deviation and curves."""
    lrs = sorted({run.lr for run in runs})
    found = {lr: [read(run) for run in runs if run.lr == lr] for lr in lrs}
    by_lr = {lr: fmean(course.mean for course in courses) for lr, courses in found.items()}
    best = min(lrs, key=by_lr.__getitem__)
    courses = found[best]
    means = [course.mean for course in courses]
    average = partial(_average, courses)
    return {
        "lr": best,
        "mean": fmean(means),
        "deviation": stdev(means) if len(means) > 1 else 0.0,
        "seeds": means,
        "spread": fmean(course.spread for course in courses),
        "each": [curve[-1] for curve in average("progress")],
        "weights": [curve[-1] for curve in average("weights")],
        "mean at each lr": {f"{lr:g}": mean for lr, mean in by_lr.items()},
        "steps": courses[0].steps,
        "curve": [fmean(at) for at in zip(*average("progress"), strict=True)],
    }


def _average(courses: Sequence[Course], name: str) -> list[list[float]]:
    """Mean over seeds of each task's curve."""
    each = [list(getattr(course, name).values()) for course in courses]  # [seeds][tasks][looks]
    return [[fmean(at) for at in zip(*curves, strict=True)] for curves in zip(*each, strict=True)]


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """Mean test L(t)/L(0) at the end, deviation over seeds, in brackets the lr."""
    lines = [f"| | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for method in next(iter(found.values())):
        cells = [
            f"{rows[method]['mean']:.3f} ± {rows[method]['deviation']:.3f} ({rows[method]['lr']:g})"
            for rows in found.values()
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(what: str, found: dict[str, dict[str, Any]], path: Path) -> None:
    """A row for each number of tasks: left the mean over the training, right where each task ended."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.8 * len(found)), layout="constrained")
        axes = figure.subplots(len(found), 2, squeeze=False)
        for (title, rows), (left, right) in zip(found.items(), axes, strict=True):
            for i, (method, row) in enumerate(rows.items()):
                look = {"color": (*PALETTE, GREY, "black")[i % 8], "ls": "-" if i < 8 else "--", "lw": 1.2}
                left.plot([0, *row["steps"]], [1, *row["curve"]], label=f"{method} (lr {row['lr']:g})", **look)
                right.plot(scales(len(row["each"])), row["each"], "o", ms=3, **look)
            left.set(title=title, xlabel="step", ylabel="test L(t)/L(0), mean over tasks")
            left.legend(fontsize=6)
            right.set(title=f"{title}, end", xlabel="sigma of the task", ylabel="test L(t)/L(0)", xscale="log")
        figure.suptitle("GradNorm's toy, " + ("each method at its best lr" if what == "toy" else "over alpha"))
        figure.savefig(path, dpi=110)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("what", choices=METHODS)
    it.add_argument("--tasks", type=int, nargs="+", default=list(STEPS), help="numbers of tasks (default: 2 10)")
    it.add_argument("--steps", type=int, help=f"default: {STEPS}")
    it.add_argument("--seeds", type=int, default=5)
    it.add_argument("--lrs", type=float, nargs="+", help="of Adam, the same for all methods")
    it.add_argument("--workers", type=int, default=1)
    it.add_argument("--work-dir", type=Path, default=Path("lab-runs/gradnorm_toy"))
    it.add_argument("--out", type=Path)
    return it


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing; write the numbers and the figure; print the table."""
    asked = parser().parse_args(arguments)
    folder = asked.work_dir / fingerprint(work)
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        tasks: {
            method: [
                Run(str(folder), asked.what, method, tasks, asked.steps or STEPS.get(tasks, 700), lr, seed)
                for lr, seed in product(asked.lrs or LRS.get(tasks, LRS[10]), range(asked.seeds))
            ]
            for method in METHODS[asked.what]
        }
        for tasks in asked.tasks
    }
    finish([run for row in rows.values() for runs in row.values() for run in runs], asked.workers)
    found = {
        f"T = {tasks}, sigma 1 to {lab_toy.LARGEST:.0f}, {next(iter(row.values()))[0].steps} steps": {
            method: summarize(runs) for method, runs in row.items()
        }
        for tasks, row in rows.items()
    }
    results, pictures = (asked.out, asked.out) if asked.out else (ROOT / "examples/results", ROOT / "docs/_static")
    for directory in (results, pictures):
        directory.mkdir(parents=True, exist_ok=True)
    about = {"command": f"python examples/gradnorm_toy.py {asked.what}", "seeds": asked.seeds, "lrs": asked.lrs or LRS}
    versions = {"truestep": truestep.__version__, "torch": torch.__version__, "python": platform.python_version()}
    text = json.dumps(about | {"versions": versions, "found": found}, indent=1, ensure_ascii=False)
    (results / f"gradnorm_{asked.what}.json").write_text(text + "\n")
    plot(asked.what, found, pictures / f"gradnorm-{asked.what}.png")
    print(markdown(found))


if __name__ == "__main__":
    main()

"""A judged claim as it is committed: one JSON file and one figure; and what changed since the last time."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

import truestep
from truestep.lab._claim import Claim, Measurement, Verdict
from truestep.lab._figure import draw
from truestep.lab._interval import Interval
from truestep.lab._runner import Measured, Trial

COMMITTED: Final = Path(__file__).parent / "results"
LONGEST_CURVE: Final = 200  # points
DIGITS: Final = 6  # significant, of a curve's points


@dataclass(frozen=True, slots=True)
class Result:
    """A claim, its verdict, and all that is needed to get it again."""

    claim: str
    source: str
    sentence: str
    threshold: str
    verdict: Verdict
    reason: str
    intervals: Mapping[str, Interval]
    numbers: Mapping[str, float]
    command: str
    versions: Mapping[str, str]
    device: str
    threads: int
    seeds: Sequence[int]
    seconds: Sequence[float]  # wall time per seed
    measurements: Sequence[Measurement]


def judged(claim: Claim, trials: Sequence[tuple[Trial, Measured]]) -> Result:
    """Judge a claim by its finished trials."""
    measurements = [measured.measurement for _, measured in trials]
    judgement = claim.judge(measurements)
    device = trials[0][0].device
    return Result(
        claim=claim.name,
        source=claim.source,
        sentence=claim.sentence,
        threshold=claim.threshold,
        verdict=judgement.verdict,
        reason=judgement.reason,
        intervals=judgement.intervals,
        numbers=judgement.numbers,
        command=f"truestep lab run {claim.name} --seeds {len(trials)} --device {device}",
        versions={
            "truestep": truestep.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        device=device,
        threads=max(measured.threads for _, measured in trials),
        seeds=[trial.seed for trial, _ in trials],
        seconds=[round(measured.seconds, 2) for _, measured in trials],
        measurements=[{name: _decimated(value) for name, value in m.items()} for m in measurements],
    )


def write(result: Result, claim: Claim, directory: Path) -> None:
    """Write `<claim>.json` and `<claim>.svg`.

    Raises:
        OSError: If the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    draw(claim.plot, result.measurements, figure_path(directory, claim.name))
    (directory / f"{claim.name}.json").write_text(to_json(result), encoding="utf-8")


def read(directory: Path, name: str) -> Result | None:
    """The result of one claim, or None if there is none yet.

    Raises:
        ValueError: If the file does not hold a result.
    """
    path = directory / f"{name}.json"
    if not path.is_file():
        return None
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} holds no result of the lab: {error}") from error


def figure_path(directory: Path, name: str) -> Path:
    """Where the figure of a claim lies."""
    return directory / f"{name}.svg"


def to_json(result: Result) -> str:
    """The result as JSON, a line for each number and each list of numbers."""
    fields = asdict(result)
    fields["intervals"] = {name: [i.mean, i.low, i.high] for name, i in result.intervals.items()}
    text = json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[[\s\d.,eE+-]*\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n"


def from_json(text: str) -> Result:
    """The result that `to_json` wrote."""
    fields: dict[str, Any] = json.loads(text)
    fields["verdict"] = Verdict(fields["verdict"])
    fields["intervals"] = {name: Interval(*ends) for name, ends in fields["intervals"].items()}
    return Result(**fields)


def changes(before: Result | None, now: Result) -> list[str]:
    """What a rerun found otherwise, one sentence each; none if it reproduces.

    Looks at the verdict, the sentence and threshold, and the intervals: whether each meets the one before.
    """
    if before is None:
        return [f"{now.claim}: judged for the first time, {now.verdict}."]
    told: list[str] = []
    if before.verdict != now.verdict:
        told.append(f"{now.claim}: was {before.verdict}, is {now.verdict}. {now.reason}")
    for field, old, new in (
        ("sentence", before.sentence, now.sentence),
        ("threshold", before.threshold, now.threshold),
    ):
        if old != new:
            told.append(f"{now.claim}: the {field} was rewritten.")
    for name, new in now.intervals.items():
        old = before.intervals.get(name)
        if old is None:
            told.append(f"{now.claim}: {name} is measured for the first time, {new}.")
        elif not old.meets(new):
            told.append(f"{now.claim}: {name} was {old}, is {new}; the intervals do not meet.")
    gone = [name for name in before.intervals if name not in now.intervals]
    return told + [f"{now.claim}: {name} is no longer measured." for name in gone]


def _decimated(value: float | list[float]) -> float | list[float]:
    """A curve at 200 points at most, the first and the last among them; a number as it is."""
    if not isinstance(value, list):
        return value
    count = min(len(value), LONGEST_CURVE)
    picked = [value[round(i * (len(value) - 1) / max(count - 1, 1))] for i in range(count)]
    return [float(f"{x:.{DIGITS}g}") for x in picked]

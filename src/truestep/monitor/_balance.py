"""What a balancer of several tasks did at the recorded steps of a run: read off it, and read back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, Final, Protocol, runtime_checkable

from truestep.core import Step, warn

Query = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]

SETTINGS: Final = ("normalize", "update_every", "accumulate")
THERE: Final = "SELECT 1 FROM sqlite_master WHERE name = 'balance_step'"  # a record of version 1 has no such table
_PLACES: Final = """
SELECT b.optimizer, o.name, b.step FROM balance_step AS b JOIN optimizer AS o ON o.id = b.optimizer
ORDER BY b.step, b.optimizer"""
_TASKS: Final = """
SELECT t.name, s.weight, s.norm, s.ratio, s.loss, b.step_factor, b.trunk_factor, b.updates
FROM balance_step AS b JOIN task_step AS s USING (optimizer, step) JOIN task AS t ON t.id = s.task
WHERE b.optimizer = ? AND b.step = ? ORDER BY s.task"""


@runtime_checkable
class Balancing(Protocol):
    """What is asked of a `truestep.multitask.Balancer`: its report, a few numbers a task."""

    @property
    def report(self) -> Any:
        """Weights, norms, ratios and losses by task; step_factor, trunk_factor and updates."""
        ...


@dataclass(frozen=True, slots=True)
class Balance:
    """What a balancer did to the gradient that one step used; nan is what was not known.

    Args:
        optimizer: Name of the optimizer in its run.
        index: Number of its step.
        weights: Weight of each task's loss, by task.
        norms: Norm of the gradient of each unweighted loss, as last measured.
        ratios: Each loss over its start, L(t)/L(0).
        losses: Each task's mean loss, unweighted.
        step_factor: Sum of the weighted norms over the sum of the norms; 1 where balancing leaves their sum alone.
        trunk_factor: Norm of the weighted sum of the gradients over the norm of their sum; nan where not measured.
        updates: How often the weights had been set by then.
    """

    optimizer: str
    index: int
    weights: dict[str, float]
    norms: dict[str, float]
    ratios: dict[str, float]
    losses: dict[str, float]
    step_factor: float
    trunk_factor: float
    updates: int


def named(balancer: Balancing | None) -> dict[str, str]:
    """The balancer's rule and settings in a line, as a fact of the run."""
    if balancer is None:
        return {}
    rule = " ".join(repr(getattr(balancer, "rule", type(balancer).__name__)).split())[:200]
    settings = [f"{name}={getattr(balancer, name)!r}" for name in SETTINGS if hasattr(balancer, name)]
    return {"balancer": ", ".join([rule, *settings])}


class BalanceProbe:
    """Reads a balancer at the recorded steps of one optimizer; what fails is told once and ends the reading.

    Args:
        balancer: Whose report to read; None reads nothing.
        optimizer: Name of the optimizer whose steps it belongs to.
        tell: Takes the step at which reading failed, and why; a note for the record.

    Raises:
        ValueError: If `balancer` has no report.
    """

    def __init__(self, balancer: Balancing | None, optimizer: str, tell: Callable[[Step, str], None]) -> None:
        if balancer is not None and inspect.getattr_static(balancer, "report", None) is None:
            msg = f"`balancer` must be a truestep.multitask.Balancer, found {type(balancer).__name__}, without a report"
            raise ValueError(msg)
        self._balancer, self._optimizer, self._tell = balancer, optimizer, tell

    def read(self, step: Step) -> Balance | None:
        """What was done to this step; None where no balancer had a part in it, or nothing moved."""
        if self._balancer is None or step.optimizer != self._optimizer or step.skipped:
            return None
        try:
            return balance_of(step, self._balancer.report)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run and its record go on
            self._balancer = None
            why = f"the balancer's report cannot be read ({type(error).__name__}: {error})"
            self._tell(step, why)
            warn(f"truestep: {why}; training goes on, its weights are no longer recorded")
            return None


def balance_of(step: Step, report: Any) -> Balance:
    """A balancer's report as plain numbers: every task that has a weight, nan for what is not said of it."""
    return Balance(
        step.optimizer,
        step.index,
        weights=_numbers(report.weights, report.weights),
        norms=_numbers(report.norms, report.weights),
        ratios=_numbers(report.ratios, report.weights),
        losses=_numbers(report.losses, report.weights),
        step_factor=float(report.step_factor),
        trunk_factor=float(report.trunk_factor),
        updates=int(report.updates),
    )


class Balances:
    """What a balancer did at the recorded steps of a run: has a length, and can be gone through again and again.

    Args:
        query: Returns the rows of a SELECT and its parameters.
    """

    def __init__(self, query: Query) -> None:
        self._query = query

    def __len__(self) -> int:
        return self._query("SELECT count(*) FROM balance_step", ())[0][0] if self._query(THERE, ()) else 0

    def __iter__(self) -> Iterator[Balance]:
        for optimizer, name, index in self._query(_PLACES, ()) if self._query(THERE, ()) else ():
            rows = self._query(_TASKS, (optimizer, index))
            if rows:  # thinned or taken back since its place was read
                yield _read_back(name, index, rows)


def _read_back(optimizer: str, index: int, rows: Sequence[tuple[Any, ...]]) -> Balance:
    tasks = [row[0] for row in rows]
    weights, norms, ratios, losses = (
        dict(zip(tasks, [_number(row[place]) for row in rows], strict=True)) for place in range(1, 5)
    )
    step_factor, trunk_factor, updates = rows[0][5:]
    factors = _number(step_factor), _number(trunk_factor)
    return Balance(optimizer, index, weights, norms, ratios, losses, *factors, int(updates))


def _numbers(told: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, float]:
    return {task: float(told.get(task, nan)) for task in tasks}


def _number(value: float | None) -> float:
    return nan if value is None else value

"""Watch a training run that already exists: one line, nothing of the loop changes."""

from __future__ import annotations

import atexit
import json
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.conditioning.shift import CovariateShift
from truestep.core import Step, never, warn
from truestep.core._names import named_parameters
from truestep.monitor._balance import BalanceProbe, Balancing, named
from truestep.monitor._blocks import Blocks
from truestep.monitor._budget import Cadence
from truestep.monitor._facts import run_facts
from truestep.monitor._inputs import (
    Labelled,
    Optimizers,
    checked_parameters,
    checked_symmetries,
    named_optimizers,
    number_or_scalar,
)
from truestep.monitor._lane import Lane
from truestep.monitor._ledger import Ledger, Number, Row
from truestep.monitor._measured import LossFn, measured
from truestep.monitor._meter import Meter
from truestep.monitor._ranks import Ranks
from truestep.monitor._run import Run
from truestep.monitor.sinks import Console, Store

ON_DISK, IN_MEMORY = 1e9, 64e6  # bytes that a record may take with and without a directory
BETWEEN_COSTS = 2.0  # seconds between two notes of what watching cost, as long as a killed run loses anyway


def watch(
    model: nn.Module,
    optimizer: Optimizers,
    run_dir: str | Path | None = None,
    *,
    every: int | Literal["auto"] = "auto",
    budget: float = 0.01,
    units: Iterable[str] = (),
    symmetries: Mapping[str, str] | Labelled | None = None,
    console: float | None = 30.0,
    max_bytes: float | None = None,
    title: str | None = None,
    balancer: Balancing | None = None,
) -> Watch:
    """Watch the step that a network really takes; no line of the training loop changes.

    Weights, gradients, optimizer state, buffers and random numbers stay bit-equal to those of the run without it. A
    failure of ours is warned of once and never stops the training.

    Args:
        model: The model, bare or wrapped by DDP or torch.compile.
        optimizer: Its optimizer, or several (a sequence, or a mapping that names them).
        run_dir: Directory of the run record `run.db`; without one the record is kept in memory (64 MB).
        every: Steps between recorded ones, or "auto": chosen by what recording was measured to cost.
        budget: Share of the wall time that "auto" may cost.
        units: Names of parameters to be recorded one unit (slice of dimension 0, an output unit) at a time.
        symmetries: What `truestep.invariance.find_symmetries` found, or a label by block ("tensor", "unit" and "group"
            say that it is scale invariant). Stored with the blocks; the report predicts an angle for these alone.
        console: Seconds between lines on the console; None prints none.
        max_bytes: Size at which the record is thinned: every second recorded step is dropped, the period doubles.
            1e9 by default, 64e6 in memory.
        title: Name of the run in reports; that of its directory by default.
        balancer: A `truestep.multitask.Balancer`, whose report is kept at the recorded steps of the first optimizer.

    Returns:
        A `Watch`; as a context manager it closes itself.

    Raises:
        ValueError: If the model has no parameters, an optimizer none of them, or it is a wrapper without step hooks; if
            `balancer` has no report.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with watch(model, optimizer, every=1, console=None) as run:
        ...     for x in torch.eye(2):
        ...         loss = model(x).square().mean()
        ...         loss.backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        ...         run.log(loss=loss, samples=1)
        ...     [step.names for step in run.steps]
        [('weight', 'bias'), ('weight', 'bias')]
    """
    return Watch(
        model,
        optimizer,
        Path(run_dir) if run_dir is not None else None,
        cadence=Cadence(every, budget),
        facts={"every": str(every), "budget": repr(budget)} | ({"title": title} if title else {}) | named(balancer),
        units=tuple(units),
        symmetries=checked_symmetries(model, symmetries),
        console=console,
        max_bytes=max_bytes or (IN_MEMORY if run_dir is None else ON_DISK),
        balancer=balancer,
    )


class Watch:
    """A watched run; made by `truestep.watch`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        run_dir: Path | None,
        *,
        cadence: Cadence,
        facts: Mapping[str, str],
        units: tuple[str, ...],
        symmetries: Mapping[str, str],
        console: float | None,
        max_bytes: float,
        balancer: Balancing | None = None,
    ) -> None:
        self._model, self._units, self.run_dir = model, units, run_dir
        optimizers, parameters = named_optimizers(optimizer), checked_parameters(model, units)
        self._ranks = Ranks(parameters.values())
        self._facts = run_facts(self._ranks.world_size, next(iter(parameters.values())).device.type) | dict(facts)
        self._balance = BalanceProbe(balancer, next(iter(optimizers)), self._unbalanced)
        self._store = Store(run_dir, meta=self._facts, max_bytes=max_bytes) if self._ranks.writes else None
        self._cadence, self._console = cadence, Console(console if self._ranks.writes else None)
        self._lanes: dict[str, Lane] = {}
        self._ledger = Ledger(self._store.scalar if self._store else _nowhere, partial(_unnoted, weakref.ref(self)))
        self._tags: dict[str, str] = {}
        self._warned = self._closed = False
        self._told_until = 0.0
        self._broken: str | None = None  # why watching must stop
        self._agreed: tuple[str, int] | None = None  # the latest step after which the ranks heard of each other
        try:
            for name, one in optimizers.items():
                self._lanes[name] = self._lane(name, one)
        except ValueError:
            for lane in self._lanes.values():
                lane.recorder.close()
            raise
        self._meter = Meter(tuple(self._lanes.values()), self._store, cadence)
        self._blocks = Blocks(model, self.lanes, self._store, units, symmetries) if self._store else None
        self._let_go = weakref.finalize(self, _let_go, self._ledger, self._store)  # when the optimizer is gone
        self._let_go.atexit = False  # but at exit before the store's own hook, which is older
        atexit.register(self._let_go)

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """What is noted of each optimizer, in the order they were given."""
        return tuple(self._lanes.values())

    # --- what a user calls

    @property
    def steps(self) -> Any:
        """Recorded `Step`s in order, read lazily from the record."""
        return self._reader().steps

    @property
    def cost(self) -> float:
        """Share of the wall time that watching cost so far, the record's writing included."""
        return self._meter.spent() / self._meter.wall()

    def log(self, *, loss: Number | None = None, samples: int | Tensor | None = None, **tags: Any) -> None:
        """Tell the loss of a step, for every step or micro-batch.

        Calls before a step's end belong to it and are added up, weighted by `samples`; if the run's first call
        follows a step, all calls belong to the step just finished. Nothing is read from a GPU here.

        Args:
            loss: Mean loss, a number or a one-element tensor.
            samples: Number of samples (or tokens) that the loss is the mean of.
            **tags: Numbers or words that hold from here on, such as `epoch=3`; noted when they change.

        Raises:
            ValueError: If `loss` has more than one element.
        """
        if self._closed or not self._ranks.writes:
            return
        if loss is not None or samples is not None:
            self._ledger.log(number_or_scalar(loss, "loss"), number_or_scalar(samples, "samples"))
        if tags:
            self._tag(tags)

    def covariate_shift(self, batches: Iterable[Any], loss_fn: LossFn | None = None) -> CovariateShift | None:
        """Measure the covariate shift of the model as it is, in the mode it is in, and keep it at the present step.

        The run stays bit-equal. Its time is no part of `cost`. All ranks must call it; rank 0 alone writes.

        Args:
            batches: What `loss_fn` takes; under FSDP, equally many on every rank.
            loss_fn: As in `truestep.conditioning.covariate_shift`; without one, no ICS share and no direct path.

        Returns:
            What was found; None, after a warning, where measuring failed on a rank.
        """
        store = None if self._closed else self._store
        return measured(self._model, batches, loss_fn, ranks=self._ranks, lane=self.lanes[0], store=store)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report of the run so far, one self-contained HTML file; `run_dir/report.html` by default."""
        from truestep.monitor.report import write_report

        if path is None and self.run_dir is None:
            msg = "`path` is needed where the run has no directory: report('report.html')"
            raise ValueError(msg)
        target = Path(path) if path is not None else Path(str(self.run_dir)) / "report.html"
        with self._reader() as run:
            return write_report([run], target)

    def flush(self) -> None:
        """Commit everything so far to the record."""
        if self._store:
            self._ledger.show()
            self._tell_cost(self._store)
            self._store.flush()
            self._warn_of_store()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs so that a resumed run goes on in the same record; all steps so far are committed."""
        self.flush()
        return {
            "run": self._facts["id"],
            "next_step": {name: lane.recorder.index for name, lane in self._lanes.items()},
            "log_first": self._ledger.log_first,
            "period": self._cadence.period,
            "cost_seconds": self._meter.spent(),
            "wall_seconds": self._meter.wall(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the record of the run that saved `state`; its steps from there on are replaced.

        Raises:
            ValueError: If steps were taken already: call it before the first, where the optimizer's state is loaded.
        """
        if any(lane.recorder.index for lane in self._lanes.values()):
            msg = "`load_state_dict` must come before the first step of the watched optimizers"
            raise ValueError(msg)
        self._facts["id"] = state["run"]
        self._ledger.log_first = state["log_first"]
        if self._cadence.auto:
            self._cadence.period = state["period"]
        for name, index in state["next_step"].items():
            if name in self._lanes:
                self._lanes[name].resume(index)
        self._meter.resume(state.get("cost_seconds", 0.0), state.get("wall_seconds", 0.0))
        if self._store:
            self._store.resume(state["run"], dict(state["next_step"]))
            self._warn_of_store()

    def close(self, status: str = "finished") -> None:
        """Take the hooks off and commit the record; the run itself goes on as if it had never been watched."""
        if self._closed:
            return
        self._closed = True
        self._let_go.detach()
        atexit.unregister(self._let_go)
        for lane in self._lanes.values():
            lane.recorder.close()
        try:
            self._ledger.settle()
            self.flush()
        except Exception as error:  # noqa: BLE001 - the record is closed all the same, and nobody's run is stopped
            warn(f"truestep: the last rows of the record are lost: {_told(error)}")
        if self._store:
            self._store.close(status)
            self._warn_of_store()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close("finished" if kind is None else "failed")

    # --- what happens at steps

    def _lane(self, name: str, optimizer: Optimizer) -> Lane:
        return Lane(
            name,
            optimizer,
            lambda: named_parameters(self._model),
            ledger=self._ledger,
            store=self._store,
            due=self._cadence.due if self._ranks.measures else never,
            on_step=self._on_step,
            on_error=partial(self._on_error, name),
            units=self._units,
        )

    def _on_step(self, step: Step) -> None:
        start = time.perf_counter()
        try:
            self._keep(step)
            self._meter.recorded(self._lanes[step.optimizer], step.index, start)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks must hear of it
            self._broken = self._broken or _told(error)
        self._agree(step.optimizer, step.index)

    def _keep(self, step: Step) -> None:
        if self._store and self._blocks:
            self._blocks.note_added(step)
            if (balance := self._balance.read(step)) is not None:
                self._store.balance(balance)
            self._store.step(step)
            self._blocks.note_nonfinite(step)
            self._cadence.at_least(self._store.period)
            self._console.step(step, self._ledger.latest, self._cadence.period, self.cost)
            if self._meter.wall() > self._told_until:
                self._tell_cost(self._store)
            self._warn_of_store()

    def _tell_cost(self, store: Store) -> None:
        self._told_until = self._meter.wall() + BETWEEN_COSTS
        store.meta("period", str(self._cadence.period))
        store.meta("cost_seconds", repr(self._meter.spent()))
        store.meta("wall_seconds", repr(self._meter.wall()))

    def _agree(self, optimizer: str, index: int) -> None:
        """Take over rank 0's period, and stop where recording failed on any rank."""
        self._agreed = optimizer, index
        self._cadence.period, failed = self._ranks.agree(self._cadence.period, failed=self._broken is not None)
        if failed:
            self._stop(self._broken or "recording failed on another rank")

    def _tag(self, tags: Mapping[str, Any]) -> None:
        fresh = {key: str(value) for key, value in tags.items() if self._tags.get(key) != str(value)}
        if fresh and self._store:
            self._tags |= fresh
            lane = next(iter(self._lanes.values()))
            self._store.event("tag", json.dumps(fresh), lane.number, lane.recorder.index)

    # --- what goes wrong, and the end

    def _on_error(self, optimizer: str, error: Exception) -> None:
        """Stop; where ranks record together, when the others listen: after this step, or else the next recorded one."""
        self._broken = self._broken or _told(error)
        index = self._lanes[optimizer].recorder.index - 1
        listening = self._agreed != (optimizer, index) and self._cadence.due(index)
        if listening or not self._ranks.together:
            self._agree(optimizer, index)

    def _unbalanced(self, step: Step, why: str) -> None:
        if self._store:
            self._store.event("unbalanced", why, self._lanes[step.optimizer].number, step.index)

    def _stop(self, why: str) -> None:
        if self._store:
            self._store.event("unwatched", why)
        self.close("failed")
        warn(f"truestep stopped watching, training goes on: {why}")

    def _warn_of_store(self) -> None:
        if self._store and self._store.failure and not self._warned:
            self._warned = True
            warn(self._store.failure)

    def _reader(self) -> Run:
        if self._store is None:
            msg = "only rank 0 keeps the record of a run; ask there"
            raise ValueError(msg)
        self.flush()
        return self._store.reader()


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _let_go(ledger: Ledger, store: Store | None) -> None:
    """Close the record of a watch that nobody closed: its optimizer is gone, or the process ends."""
    if store is not None:
        ledger.settle()
        store.close("failed" if getattr(sys, "last_value", None) is not None else "finished")


def _unnoted(watch: Callable[[], Watch | None]) -> list[Row]:
    """Last steps without a row; by a weak reference, since the ledger outlives a watch that nobody closed."""
    lanes = found.lanes if (found := watch()) is not None else ()
    return [row for lane in lanes if (row := lane.unnoted()) is not None]


def _nowhere(_: object) -> None:
    """Where rows go on a rank that does not write."""

"""The driver's loop: trials go out, outcomes come back, and a pool of ours that broke is rebuilt."""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from queue import Empty, SimpleQueue
from typing import Any, Final

import torch

from truestep.compare.sweep._pool import Here, LocalPool
from truestep.compare.sweep._worker import Outcome, run_pickled, run_trial

BREAKS: Final = 3  # a trial whose worker died this often has failed; the last time it ran alone
AHEAD: Final = 32  # trials under way for each worker of ours
Finish = Callable[[str, Outcome, int], None]  # hash, outcome, attempts


class Drive:
    """Trials by hash on their way through an executor.

    Args:
        executor: Where they run.
        trials: What is to be run.
        finish: Called with hash, outcome and number of attempts as each trial ends.
    """

    def __init__(self, executor: Executor, trials: Mapping[str, Callable[[], Any]], finish: Finish) -> None:
        self._executor, self._trials, self._finish = executor, trials, finish
        self._waiting = deque(trials)
        self._under_way: dict[Future[Any], str] = {}
        self._ended: SimpleQueue[Future[Any]] = SimpleQueue()
        self._breaks: Counter[str] = Counter()
        self._broken = False
        self._back: list[str] = []  # what a broken pool gave back
        self._width = _width(executor, len(trials))

    def run(self) -> None:
        """Until every trial has ended; whatever interrupts it, what has ended is handed on first."""
        try:
            while self._waiting or self._under_way:
                self._send()
                if self._under_way:
                    self._receive(self._ended.get())
                if self._broken and not self._under_way:
                    self._mend()
        except BaseException:
            self._abandon()
            raise

    def _send(self) -> None:
        while self._waiting and not self._broken and self._may_start(self._waiting[0]):
            name = self._waiting[0]
            try:
                future = self._submitted(self._trials[name])
            except BrokenExecutor as error:
                if not self._under_way:  # else they come back, those that have ended first, and tell who was running
                    self._break(error, [])
                return
            self._waiting.popleft()
            self._under_way[future] = name
            future.add_done_callback(self._ended.put)

    def _submitted(self, trial: Callable[[], Any]) -> Future[Any]:
        if isinstance(self._executor, LocalPool):
            return self._executor.submit(run_pickled, pickle.dumps(trial), torch.get_default_dtype())
        return self._executor.submit(run_trial, trial, torch.get_default_dtype())

    def _may_start(self, name: str) -> bool:
        """Whether there is room; a trial under suspicion wants to be alone."""
        alone = any(self._is_suspect(other) for other in (name, *self._under_way.values()))
        return len(self._under_way) < (1 if alone else self._width)

    def _is_suspect(self, name: str) -> bool:
        return self._breaks[name] >= BREAKS - 1

    def _receive(self, future: Future[Any]) -> None:
        name = self._under_way.pop(future)
        try:
            outcome = future.result()
        except BrokenExecutor as error:
            if not self._broken:
                self._break(error, [name, *self._under_way.values()])
            if self._breaks[name] < BREAKS:
                self._back.append(name)
                return
            reason = "out of memory, or a crash in compiled code?"
            outcome = Outcome(None, f"the trial's process died {BREAKS} times, the last time alone: {reason}", 0)
        except (Exception, CancelledError) as error:  # noqa: BLE001  the executor's own trouble with this trial
            outcome = Outcome(None, f"{type(error).__name__}: {error}", 0)
        self._finish(name, outcome, self._breaks[name] + (outcome.result is not None or not self._breaks[name]))

    def _break(self, error: BrokenExecutor, under_way: list[str]) -> None:
        """Let what is under way come back, the oldest under suspicion; an executor that is not ours stays broken."""
        if not isinstance(self._executor, LocalPool):
            advice = "what has ended is kept: start the sweep again on a new one"
            raise RuntimeError(f"`executor` broke ({type(error).__name__}: {error}); {advice}") from error
        self._broken = True
        self._breaks.update(under_way[: 2 * self._executor.workers + 1])  # one in each worker, and those in its queue

    def _mend(self) -> None:
        assert isinstance(self._executor, LocalPool)
        self._executor.rebuild()
        self._broken = False
        self._waiting.extendleft(reversed(self._back))
        self._back.clear()

    def _abandon(self) -> None:
        """Keep what has ended, cancel the rest; our own workers end at once."""
        for future in list(self._under_way):
            future.cancel()
        if isinstance(self._executor, LocalPool):
            self._executor.kill()
        while True:
            try:
                future = self._ended.get_nowait()
            except Empty:
                return
            if future in self._under_way and not future.cancelled() and future.exception() is None:
                self._receive(future)


def _width(executor: Executor, most: int) -> int:
    """How many trials may be under way: enough that no worker waits for the driver, few enough to hold in memory."""
    if isinstance(executor, LocalPool):
        return AHEAD * executor.workers
    return 1 if isinstance(executor, Here) else most

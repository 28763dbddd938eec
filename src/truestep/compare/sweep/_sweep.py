"""Many trials, each run once: on any executor, kept in one file, gone on with after a kill."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Self

from truestep.compare.sweep._content import ADVICE, content, hash_of
from truestep.compare.sweep._drive import Drive
from truestep.compare.sweep._pool import Here, LocalPool, cores, refuse_import
from truestep.compare.sweep._progress import progress_bar
from truestep.compare.sweep._store import Store, StoredTrial
from truestep.compare.sweep._worker import Outcome

Trial = Callable[[], dict[str, Any]]


class TrialError(RuntimeError):
    """Some trials of a sweep failed; all others are in the store.

    Attributes:
        failures: The failed ones, with their tracebacks as `error`.
    """

    def __init__(self, failures: Sequence[StoredTrial], total: int) -> None:
        self.failures = tuple(failures)
        reasons = [(failure.error or "").strip().rpartition("\n")[2] for failure in failures]
        first = f"the first: {reasons[0]}"
        super().__init__(f"{len(failures)} of {total} trials failed, the others are kept; {first}")


class Sweep:
    """Runs trials and keeps what they give, by the hash of their content: what the store has is not run again.

    A trial is a `functools.partial` of an importable function that returns a dict of what JSON can hold; floats come
    back bit by bit, tuples as lists, keys as texts. It runs with one torch thread, from `torch.manual_seed(0)`, with
    the driver's default number format, so the results are the same bits on one process and on many. A killed sweep is
    started again with the same lines, and does only what is missing.

    Args:
        store: A SQLite file, made if missing; None keeps the results in memory as long as this object.
        executor: Any `concurrent.futures.Executor`; None for a pool of processes on this machine.
        workers: Number of processes of that pool, by default one a core; 0 runs the trials in this process.
        progress: Whether to draw a bar; None for where stderr is a terminal and rich is installed.

    Raises:
        ValueError: If `store` is something else than a sweep's file, or both `executor` and `workers` are given.

    Example:
        >>> from functools import partial
        >>> with Sweep(workers=0) as sweep:
        ...     sweep.run([partial(dict, lr=0.1), partial(dict, lr=0.2)])
        [{'lr': 0.1}, {'lr': 0.2}]

    Note:
        In a script the pool needs the guard that every spawned process needs: `if __name__ == "__main__":`. Workers
        import a file once: after an edit make a new `Sweep`.
    """

    def __init__(
        self,
        store: str | Path | None = None,
        executor: Executor | None = None,
        *,
        workers: int | None = None,
        progress: bool | None = None,
    ) -> None:
        if executor is not None and workers is not None:
            raise ValueError("`workers` is for the pool of this machine, found it beside `executor`: give one of them")
        if workers is not None and workers < 0:
            raise ValueError(f"`workers` must be at least 0, found {workers}")
        self._store = Store(store)
        self._own = executor is None
        self._executor = executor or (Here() if workers == 0 else LocalPool(workers or cores()))
        self._progress = progress

    def run(self, trials: Sequence[Trial], *, label: str = "") -> list[dict[str, Any]]:
        """The trials' results, in their order. Equal trials are run once; failed ones are run again by the next call.

        Args:
            trials: What to run.
            label: What they are for, kept beside each and shown at the bar.

        Raises:
            ValueError: If a trial has no importable name or cannot be pickled, or another sweep is writing the store.
            TrialError: At the end, if trials failed.
            RuntimeError: If `executor` broke, or the workers die as they start.
        """
        refuse_import()
        texts = [content(trial) for trial in trials]
        names = [hash_of(text) for text in texts]
        of = dict(zip(names, texts, strict=True))
        with self._store.driving():
            found = self._store.results(of)
            todo = {name: trial for name, trial in zip(names, trials, strict=True) if name not in found}
            self._check(todo.values())
            with progress_bar(label, len(of), len(found), self._progress) as advance:

                def finish(name: str, outcome: Outcome, attempts: int) -> None:
                    self._store.save(name, label, of[name], outcome, attempts)
                    advance()

                Drive(self._executor, todo, finish).run()
        return self._loaded(names)

    def _check(self, trials: Any) -> None:
        """Refuse before the start what no other process could be given."""
        if isinstance(self._executor, Here):
            return
        for trial in trials:
            try:
                pickle.dumps(trial)
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                raise ValueError(f"`trials` must be picklable: {error}; {ADVICE}") from error

    def _loaded(self, names: Sequence[str]) -> list[dict[str, Any]]:
        found = self._store.results(dict.fromkeys(names))
        if missing := set(names) - set(found):
            raise TrialError([trial for trial in self.results() if trial.hash in missing], len(set(names)))
        return [json.loads(found[name]) for name in names]

    def results(self) -> list[StoredTrial]:
        """Every trial that the store has, of this sweep and of earlier ones."""
        return self._store.all()

    def close(self) -> None:
        """End our own workers and close the store; an executor that was given is left alone."""
        if self._own:
            self._executor.shutdown()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

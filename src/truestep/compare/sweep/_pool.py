"""Where trials run: a pool of processes of our own that can be rebuilt and ended at once, or this process."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Final

from truestep.compare.sweep._worker import nothing, prepare

GUARD: Final = "put what the script does under `if __name__ == '__main__':`"


class LocalPool(Executor):
    """Processes on this machine, started by "spawn" when the first work comes.

    Args:
        workers: Number of processes.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: Executor | None = None
        self._end: Any = None
        self._lifeline: Any = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a task; BrokenProcessPool if a worker has died."""
        with _undisturbed():
            if self._pool is None:
                self._pool = self._start()
            return self._pool.submit(fn, *args, **kwargs)

    def _start(self) -> Executor:
        context = multiprocessing.get_context("spawn")
        self._lifeline, self._end = context.Pipe(duplex=False)
        return ProcessPoolExecutor(self.workers, context, initializer=prepare, initargs=(self._lifeline,))

    def rebuild(self) -> None:
        """Clear a broken pool away and start another.

        Raises:
            RuntimeError: If the new one's first worker dies before it has done anything.
        """
        self.kill()
        try:
            self.submit(nothing).result()
        except BrokenProcessPool:
            self.kill()
            raise RuntimeError(f"the sweep's workers die as they start: {GUARD}, in a file") from None

    def kill(self) -> None:
        """End every worker now, in the middle of its work, and wait until it is gone."""
        if self._pool is not None:
            self._end.send_bytes(b".")  # nobody reads it: every worker sees it
            self._drop(cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers when their work is done."""
        if self._pool is not None:
            self._drop(wait, cancel_futures=cancel_futures)

    def _drop(self, wait: bool = True, *, cancel_futures: bool) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait, cancel_futures=cancel_futures)
        for end in (self._end, self._lifeline):
            end.close()
        self._pool = None


class Here(Executor):
    """The driver's own process: a task is done when `submit` returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def refuse_import() -> None:
    """End a worker that runs the sweep again as it imports the user's script, with one line and no traceback.

    Raises:
        SystemExit: In such a worker.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # multiprocessing's own sign
        raise SystemExit(f"truestep: a worker imports this script and runs its sweep again: {GUARD}")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _undisturbed() -> Generator[None]:
    """Ctrl-C waits meanwhile, and processes started meanwhile are born deaf to it: the driver ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""What happens where a trial runs: one thread, known random numbers, an outcome whatever happens."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Final

import torch

from truestep.compare._draws import draws_from

ERROR_LENGTH: Final = 8000  # characters of a traceback; its end is kept
_ALONE: Final = threading.RLock()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial gave: the JSON of its result, or the traceback of its error; and its seconds."""

    result: str | None
    error: str | None
    seconds: float | int


def run_trial(trial: Callable[[], dict[str, Any]], dtype: torch.dtype | None = None) -> Outcome:
    """Run a trial with one torch thread, and torch's, Python's and numpy's random numbers from seed 0.

    So it gives the same bits in every process, whatever ran there before. In one process trials run one at a time,
    threads or not, for torch's random numbers and its number of threads are the process's.

    Args:
        trial: What to run.
        dtype: Torch's default number format meanwhile, as the driver has it; None: this process's own.

    Example:
        >>> from functools import partial
        >>> run_trial(partial(dict, loss=0.1)).result
        '{"loss": 0.1}'
        >>> run_trial(partial(divmod, 1, 0)).error.splitlines()[-1]
        'ZeroDivisionError: integer division or modulo by zero'
    """
    with _ALONE, _one_thread(), _default(dtype), draws_from(0):
        return _tried(trial)


def run_pickled(data: bytes, dtype: torch.dtype | None = None) -> Outcome:
    """`run_trial` of a pickled one: what cannot be imported here is that trial's error, and no end of the worker."""
    return run_trial(partial(_unpickled, data), dtype)


def _unpickled(data: bytes) -> dict[str, Any]:
    return pickle.loads(data)()


def _tried(trial: Callable[[], dict[str, Any]]) -> Outcome:
    start = time.perf_counter()
    try:
        result, error = _as_json(trial()), None
    except (Exception, SystemExit):  # noqa: BLE001  a trial's failure is a result, not the sweep's
        result, error = None, traceback.format_exc()[-ERROR_LENGTH:]
    return Outcome(result, error, time.perf_counter() - start)


def _as_json(result: Any) -> str:
    """Floats come back bit by bit; nan and inf are written as Python's json does."""
    if not isinstance(result, dict):
        raise TypeError(f"a trial must return a dict that JSON can hold, found {type(result).__name__}")
    try:
        return json.dumps(result)
    except (TypeError, ValueError) as error:
        advice = "give numbers, texts and lists, as `tensor.tolist()`"
        raise TypeError(f"a trial must return a dict that JSON can hold: {error}; {advice}") from error


@contextmanager
def _one_thread() -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _default(dtype: torch.dtype | None) -> Generator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def prepare(lifeline: Any) -> None:
    """Make a fresh worker end with its driver, however that dies, or as soon as there is something in `lifeline`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all in the terminal; the driver decides
    parent = multiprocessing.parent_process()
    signs = [lifeline] if parent is None else [lifeline, parent.sentinel]
    threading.Thread(target=_end_at, args=(signs,), name="truestep-lifeline", daemon=True).start()


def _end_at(signs: Sequence[Any]) -> None:
    wait(signs)
    os._exit(1)  # at once: the trial may be in the middle of an hour's work, and nobody waits for it


def nothing() -> None:
    """A task to see that a worker has started."""

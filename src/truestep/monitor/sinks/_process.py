"""The open records of this process: flushed at its end, left alone by a forked child."""

from __future__ import annotations

import atexit
import ctypes
import os
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable


@runtime_checkable
class Recording(Protocol):
    """What this file asks of an open record."""

    failure: str | None
    directory: Path | None

    def hold(self) -> None:
        """Keep its writer from touching the database."""
        ...

    def release(self) -> None:
        """Let the writer go on."""
        ...

    def abandon(self) -> None:
        """Never touch the database again: it belongs to the parent process."""
        ...

    def leave(self) -> None:
        """Write what was handed over, and end without saying how the run ended."""
        ...


class _Process:
    """Hooks into the process, set when the first record is asked for: importing truestep sets none."""

    def __init__(self) -> None:
        self.open: list[Recording] = []
        self.hooked = False

    def hook(self) -> None:
        if self.hooked:
            return
        self.hooked = True
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self.before_fork, after_in_parent=self.in_parent, after_in_child=self.in_child)

    def end(self) -> None:
        for recording in tuple(self.open):
            recording.leave()

    def before_fork(self) -> None:
        for recording in self.open:  # no lock of SQLite may be held by a thread that the child does not have
            recording.hold()

    def in_parent(self) -> None:
        for recording in self.open:
            recording.release()

    def in_child(self) -> None:
        for recording in self.open:
            recording.abandon()
        self.open.clear()


_PROCESS: Final = _Process()


def hook() -> None:
    """Set the hooks, once. At the end of a process, what was registered later runs first, a watch's own for example."""
    _PROCESS.hook()


def enter(recording: Recording) -> None:
    """A record was opened."""
    _PROCESS.open.append(recording)


def leave(recording: Recording) -> None:
    """A record was closed."""
    if recording in _PROCESS.open:
        _PROCESS.open.remove(recording)


def take_over(directory: Path | None) -> None:
    """End the record that this process still writes to the directory: a cell of a notebook that runs again."""
    for other in tuple(_PROCESS.open):
        if directory is not None and other.directory == directory:
            other.leave()
            other.failure = f"the run record in {directory} was taken over by a newer watch; this one is unrecorded"


def keep_forever(thing: Any) -> None:
    """Never finalize `thing`: a child must not even close the database connection of its parent.

    https://www.sqlite.org/howtocorrupt.html, 2.6.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))

"""Runs that several files of this room read."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.monitor.written import write

from truestep.monitor.sinks import Store


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run of eight steps in a directory whose name a URI must quote."""
    directory = tmp_path / "a run #1 100%?"
    store = Store(directory, meta={"id": "abc"})
    write(store, range(8), mark=0.5)
    store.close()
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A run that still goes on."""
    opened = Store(tmp_path, meta={"id": "abc"})
    yield opened
    opened.close()

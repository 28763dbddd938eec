"""The bar."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from truestep.compare.sweep import Sweep
from truestep.compare.sweep._progress import progress_bar


def test_the_bar_counts_what_the_store_had_and_what_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("digits", 10, 4, shown=True) as advance:
        advance()
    told = capsys.readouterr()
    assert told.out == ""
    assert "digits" in told.err
    assert "5/10" in told.err
    assert "4 from the store" in told.err


def test_a_sweep_draws_its_label(capsys: pytest.CaptureFixture[str]) -> None:
    with Sweep(workers=0, progress=True) as sweep:
        sweep.run([partial(dict, x=1)], label="one trial")
    assert "one trial" in capsys.readouterr().err


@pytest.mark.parametrize("progress", [None, False])
def test_no_bar_is_drawn_where_nobody_sees_it(capsys: pytest.CaptureFixture[str], progress: bool | None) -> None:
    with Sweep(workers=0, progress=progress) as sweep:
        sweep.run([partial(dict, x=1)])
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar("digits", 1, 0, shown=None):
        pass
    with progress_bar("stored", 1, 1, shown=None):
        pass
    told = capsys.readouterr().err
    assert "digits" in told
    assert "stored" not in told


def test_a_bar_that_is_asked_for_needs_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ImportError, match=r"the progress bar needs `rich.console`: pip install 'truestep\[lab\]'"):
        progress_bar("", 1, 0, shown=True).__enter__()


def test_without_rich_a_terminal_gets_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("truestep.compare.sweep._progress.find_spec", lambda name: None)
    with progress_bar("digits", 1, 0, shown=None):
        pass
    assert capsys.readouterr().err == ""

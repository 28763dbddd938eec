"""Fingerprints: what a measurement depends on changes them, nothing else does."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from truestep.lab import _sources
from truestep.lab._sources import fingerprint
from truestep.lab.claims import inverse_sqrt_decay


@pytest.fixture(autouse=True)
def _read_again() -> None:
    fingerprint.cache_clear()


def load(path: Path, text: str) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_changed_file_is_another_fingerprint(tmp_path: Path) -> None:
    first = fingerprint(load(tmp_path / "a.py", "def run(): return 1\n").run)
    assert first == fingerprint(load(tmp_path / "b.py", "def run(): return 1\n").run)
    assert first != fingerprint(load(tmp_path / "c.py", "def run(): return 2\n").run)


def test_imports_are_followed_through_packages() -> None:
    reached = {p.relative_to(_sources.ROOT).as_posix() for p in _sources._reachable(Path(inverse_sqrt_decay.__file__))}
    assert {"lab/_digits.py", "core/__init__.py", "core/_gram.py", "invariance/_formulas.py"} <= reached
    assert not {"lab/_cli.py", "lab/_runner.py", "lab/claims/growing_norm.py"} & reached


def test_another_torch_is_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(inverse_sqrt_decay.run)
    fingerprint.cache_clear()
    monkeypatch.setattr("torch.__version__", "9.9.9")
    assert fingerprint(inverse_sqrt_decay.run) != before

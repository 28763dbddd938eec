"""The source text behind a user's function, with all that it names."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from truestep.compare.sweep._source import is_users, source_digest, top_package

HELPER = """
SIZE = 3
TABLE = {"rate": 0.1}

def grow(x):
    return x * SIZE

HELP = 1

def idle(x):
    return x

def later():
    from .users_main import unused
    late = HELP
    return late
"""
MAIN = """
import functools
import logging
import threading
from dataclasses import dataclass

import torch

import {helper} as helper
from {helper} import TABLE

LR = 0.1
WEIGHTS = torch.tensor([1.0, 2.0])
UNUSED = 1
lock, log = threading.Lock(), logging.getLogger("x")
HANDLERS = {{}}
HANDLERS['x'] = 1
torch.set_default_dtype(torch.float32)

def scaled(x):
    return x * LR

@dataclass(frozen=True)
class Base:
    x: int = 0

    def value(self):
        return helper.grow(self.x)

class Model(Base):
    @property
    def double(self):
        return 2 * self.value() + inner(TABLE["rate"])

    @staticmethod
    def still():
        return WEIGHTS

def inner(x):
    def innermost(y):
        return [scaled(z) for z in y]
    return innermost

@functools.lru_cache
def cached(x):
    return scaled(x)

PART = functools.partial(cached, 3)

def trial(number, lr=LR):
    with lock:
        log.info("x")
    HANDLERS[number] = PART
    from users_helper import later
    return {{"loss": Model(number).double, "late": later()}}

HANDLERS["trial"] = trial

def unused():
    return UNUSED
"""
_NUMBER = itertools.count()


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """The digest of `trial`, or of what is named, of the two files, in which texts are replaced."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def digest(*changes: tuple[str, str], of: str = "trial") -> str:
        folder = tmp_path / str(next(_NUMBER))
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)
        names = ("users_main", "users_helper")
        for name, text in zip(names, (MAIN.format(helper="users_helper"), HELPER), strict=True):
            for before, after in changes:
                text = text.replace(before, after)  # noqa: PLW2901
            (folder / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        made.extend(names)
        return source_digest(getattr(importlib.import_module("users_main"), of))

    yield digest
    for name in made:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "change",
    [
        ('"loss"', '"lost"'),
        ("LR = 0.1", "LR = 0.2"),
        ("x * LR", "x / LR"),
        ("SIZE = 3", "SIZE = 4"),
        ("x * SIZE", "x + SIZE"),
        ('"rate": 0.1', '"rate": 0.3'),
        ("x: int = 0", "x: int = 1"),
        ("2.0]", "2.5]"),
        ("2 * self.value()", "3 * self.value()"),
        ("for z in y", "for z in y[1:]"),
        ("partial(cached, 3)", "partial(cached, 4)"),
        ("HANDLERS['x'] = 1", "HANDLERS['x'] = 2"),
        ("torch.float32)", "torch.float64)"),
        ("return late", "return 2 * late"),
        ("HELP = 1", "HELP = 2"),
    ],
    ids=lambda change: change[0],
)
def test_an_edit_of_what_the_function_reaches_changes_the_digest(
    digest: Callable[..., str], change: tuple[str, str]
) -> None:
    assert digest(change) != digest()


@pytest.mark.parametrize(
    "change",
    [
        ("UNUSED = 1", "UNUSED = 2"),
        ("return x\n", "return -x\n"),
        ("x * LR", "x  *  LR  # the rate"),
        ("trial(1)", "trial(2)"),
    ],
    ids=lambda change: change[0],
)
def test_an_edit_elsewhere_does_not(digest: Callable[..., str], change: tuple[str, str]) -> None:
    assert digest(change) == digest()


def test_a_cached_function_is_known_by_what_it_wraps(digest: Callable[..., str]) -> None:
    assert digest(of="cached") != digest(("x * LR", "x / LR"), of="cached")


@pytest.mark.parametrize("module", ["json", "torch.optim", "truestep.compare", "pytest", "builtins", "no.such"])
def test_packages_and_python_itself_are_not_the_users(module: str) -> None:
    assert not is_users(module)


def test_a_script_and_a_file_are_the_users() -> None:
    assert is_users("__main__")
    assert is_users(__name__)


def test_the_top_package_is_the_first_word() -> None:
    assert [top_package(name) for name in ("torch.optim.adam", "json")] == ["torch", "json"]


def test_a_function_without_source_is_refused() -> None:
    scope: dict[str, Any] = {"__name__": __name__}
    exec("def typed(): return {}", scope)
    with pytest.raises(ValueError, match=r"^`trials` must have their source in a file, found .*:typed without: write"):
        source_digest(scope["typed"])

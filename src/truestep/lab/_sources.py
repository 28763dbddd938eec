"""A fingerprint of the code that a measurement depends on."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

import truestep

ROOT: Final = Path(truestep.__file__).parent


@cache  # read once a run: sources do not change under it
def fingerprint(run: Callable[..., Any]) -> str:
    """Hash of the file that defines `run`, of every truestep file it imports, in turn, and of torch's version.

    Example:
        >>> from truestep.lab import CLAIMS
        >>> len(fingerprint(CLAIMS[0].run))
        12
    """
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(_reachable(Path(inspect.getfile(run)))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _reachable(start: Path) -> set[Path]:
    """The file itself and all truestep files that it leads to by import statements."""
    found, ahead = {start}, [start]
    while ahead:
        for path in _imported(ahead.pop()):
            if path not in found:
                found.add(path)
                ahead.append(path)
    return found


def _imported(path: Path) -> Iterator[Path]:
    """Files of the truestep modules that one file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, *rest = name.split(".")
            base = ROOT.joinpath(*rest)
            candidates = (base.with_suffix(".py"), base / "__init__.py") if top == "truestep" and rest else ()
            yield from filter(Path.is_file, candidates)

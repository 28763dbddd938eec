"""`module:function` on a command line: imported, called, and its mistakes told in one line."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

OURS: Final = str(Path(__file__).parent)


class UserError(ValueError):
    """What a user's function did wrong, in one line."""


def call(target: str) -> Any:
    """What the function gives; modules of the current directory are importable.

    Args:
        target: `module:function`, the function without arguments.

    Raises:
        UserError: If there is no such function, or it raises.

    Example:
        >>> call("platform:python_implementation")
        'CPython'
        >>> call("platform:nothing")
        Traceback (most recent call last):
        truestep._user_function.UserError: `platform` has no function `nothing`
    """
    module, _, name = target.partition(":")
    if not (module and name):
        msg = f"`{target}` must be module:function, as in `train:window`"
        raise UserError(msg)
    with user_code(target):
        found = _imported(module.removesuffix(".py"))
        function = getattr(found, name, None)
        if not callable(function):
            raise UserError(f"`{module}` has no function `{name}`{_instead(found, name)}")
        return function()


@contextmanager
def user_code(target: str) -> Generator[None, None, None]:
    """Turn any error inside into a `UserError` that names `target`, the error and its place in the user's files."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{target} {_told(error)}") from error
    finally:
        sys.path.remove(here)


def _instead(module: Any, name: str) -> str:
    """What there is under the name, or under one like it."""
    if hasattr(module, name):
        return f": that is of type {type(getattr(module, name)).__name__}"
    like = get_close_matches(name, [other for other, x in vars(module).items() if callable(x)], 1)
    return f"; is it `{like[0]}`?" if like else ""


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the user's module imports
        msg = f"there is no module `{module}`: `{error.name}` is neither installed nor in {Path.cwd()}"
        raise UserError(msg) from error


def _told(error: Exception) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(OURS) or "site-packages" not in frame.filename  # where we are installed too
    ]
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    if frames and frames[-1].filename.startswith(OURS) and isinstance(error, ValueError):
        return f"gave what cannot be used: {error}{notes}"  # our own words, said about the user's arguments
    user = [frame for frame in frames if not frame.filename.startswith((OURS, "<"))]
    place = f" at {Path(user[-1].filename).name}:{user[-1].lineno}" if user else ""
    return f"raised {type(error).__name__}: {error}{place}{notes}"

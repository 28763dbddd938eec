"""Attributes of other people's objects, put back."""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def restored(*holders: Any) -> Generator[None, None, None]:
    """Put back the attributes of `holders`, and what their plain lists and dicts held; nothing deeper.

    Example:
        >>> from types import SimpleNamespace
        >>> holder = SimpleNamespace(steps=[1])
        >>> with restored(holder):
        ...     holder.steps.append(2)
        ...     holder.more = 3
        >>> holder
        namespace(steps=[1])
    """
    before = [_remembered(vars(holder)) for holder in holders]
    try:
        yield
    finally:
        for holder, attributes in zip(holders, before, strict=True):
            _put_back(vars(holder), attributes)


def _remembered(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each value, and a copy of a list or dict to which something may be added."""
    return {
        name: (value, copy.copy(value) if type(value) in (list, dict) else None) for name, value in attributes.items()
    }


def _put_back(attributes: dict[str, Any], before: dict[str, tuple[Any, Any]]) -> None:
    for name in attributes.keys() - before.keys():
        del attributes[name]
    for name, (value, content) in before.items():
        attributes[name] = value
        if content is not None:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)

"""The one message for a package of the lab's extra that is needed and not found."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def lab_extra(who: str) -> Generator[None, None, None]:
    """Turn a failed import into one that says who needs it, and the line to type.

    Raises:
        ImportError: In place of the one raised inside.

    Example:
        >>> with lab_extra("the lab"):
        ...     import no_such_package
        Traceback (most recent call last):
        ImportError: the lab needs `no_such_package`: pip install 'truestep[lab]'
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{who} needs `{error.name}`: pip install 'truestep[lab]'", name=error.name) from error

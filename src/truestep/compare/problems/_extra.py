"""The one message for a package that a problem needs and does not find."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def problem_extra() -> Generator[None, None, None]:
    """Turn a failed import into one that names the line to type.

    Raises:
        ImportError: In place of the one raised inside.

    Example:
        >>> with problem_extra():
        ...     import no_such_package
        Traceback (most recent call last):
        ImportError: this problem needs `no_such_package`: pip install 'truestep[lab]'
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"this problem needs `{error.name}`: pip install 'truestep[lab]'", name=error.name) from error

"""The one message for a package that the lab needs and does not find."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def lab_extra() -> Generator[None, None, None]:
    """Turn a failed import into one that names the line to type.

    Raises:
        ImportError: In place of the one raised inside.

    Example:
        >>> with lab_extra():
        ...     import no_such_package
        Traceback (most recent call last):
        ImportError: the lab needs `no_such_package`: pip install 'truestep[lab]'
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"the lab needs `{error.name}`: pip install 'truestep[lab]'", name=error.name) from error

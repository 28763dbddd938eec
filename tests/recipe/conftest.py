"""What several files of this room need."""

from collections.abc import Iterator

import pytest
from jaxtyping import config


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As in a user's process: jaxtyping checks no types, so that our own messages speak."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)

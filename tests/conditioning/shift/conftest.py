"""What two ranks saw, once for all tests of this folder."""

from typing import Any

import pytest
from tests.conditioning.shift.ranks import WORLD
from tests.gloo import seen_by_ranks


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The result of `ranks.py`, one entry a rank."""
    return seen_by_ranks("tests.conditioning.shift.ranks", WORLD, tmp_path_factory.mktemp("ranks"))

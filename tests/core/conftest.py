"""What several files of this room need."""

from typing import Any

import pytest
from tests.gloo import seen_by_ranks


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the gloo processes of `tests.core.ranks` saw."""
    folder = tmp_path_factory.mktemp("ranks")
    return seen_by_ranks("tests.core.ranks", 4, folder)

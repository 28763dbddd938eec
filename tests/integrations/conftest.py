"""What several files of this room need."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Any]:
    """Make a Trainer from a model, rows, a loss function and arguments."""
    from tests.integrations.trainers import trainer

    def made(model: Any, rows: Any, loss: Any = None, **arguments: Any) -> Any:
        return trainer(model, rows, tmp_path, loss, **arguments)

    return made

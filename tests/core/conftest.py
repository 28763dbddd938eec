"""What several files of this room need."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As in a user's process: jaxtyping checks no shapes, so that our own messages speak."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the gloo processes of `tests.core.ranks` saw."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.core.ranks", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(4)]

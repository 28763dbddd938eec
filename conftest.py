"""What every test and doctest runs under: one seed, one thread, checked shapes, no deadline."""

import os
import random
import shutil
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from jaxtyping import config, install_import_hook

# Types and shapes in truestep's signatures are checked from here on. `Self` is let through: beartype knows it only in
# classes that it decorates itself, and jaxtyping's hook decorates methods one by one.
_CONF = "beartype.BeartypeConf(hint_overrides=beartype.FrozenDict({__import__('typing').Self: object}))"
install_import_hook("truestep", f"beartype.beartype(conf={_CONF})")
settings.register_profile("truestep", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("truestep")
torch.set_num_threads(1)  # xdist's workers share the cores; a sum comes out in the same order everywhere
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for processes that tests start
os.environ.setdefault("MPLBACKEND", "Agg")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NO_BROWSER = f"no {', '.join(BROWSERS)} on PATH (Debian: apt-get install chromium)"


def find_chromium() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test and doctest from the same random numbers."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As in a user's process: jaxtyping checks no types, so that our own messages speak."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of a Chromium for playwright's `executable_path`; skips with the reason where there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip(NO_BROWSER)
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `browser`, with the reason, where there is no Chromium."""
    if find_chromium() is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason=NO_BROWSER))

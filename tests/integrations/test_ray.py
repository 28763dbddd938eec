"""Ray's executor on a real cluster of two nodes, and in a Ray of this machine's own; `ray_cluster` runs them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import forked

from truestep.integrations.ray import RayExecutor


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `tests.integrations.ray_cluster` saw."""
    folder = tmp_path_factory.mktemp("ray")
    done = forked.run("-m", "tests.integrations.ray_cluster", folder, warn="error")
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "seen.json").read_text())


def test_a_sweep_that_loses_one_of_two_nodes_at_work_gives_a_serial_run_s_bits(seen: dict[str, Any]) -> None:
    assert seen["killed"]
    assert seen["nodes"] == 2
    assert seen["starts"] > seen["ends"] == seen["results"] == 16  # the one that was lost ran again, no other did
    assert seen["same"]


def test_what_a_call_gives_or_raises_is_its_own(seen: dict[str, Any]) -> None:
    assert seen["map"] == [1, 1, 4, 27]
    assert (seen["failed"]["type"], seen["failed"]["text"]) == ("KeyError", "'no such thing'")
    assert "in fail\n    raise KeyError(text)" in seen["failed"]["cause"]  # where in the worker


def test_a_call_that_ends_its_worker_each_time_has_failed(seen: dict[str, Any]) -> None:
    assert seen["died"]["type"] == "WorkerCrashedError"


def test_what_cannot_be_pickled_is_refused_at_once(seen: dict[str, Any]) -> None:
    assert "cannot pickle 'generator' object" in seen["not pickled"]


def test_calls_are_cancelled_whether_they_run_or_wait(seen: dict[str, Any]) -> None:
    assert seen["undone"] == 2
    assert seen["cancelled"] == [True, True, 2]
    assert not seen["waiting ran"]
    assert seen["kept"] == [2.0, False]  # the next call had the place, and what is done stays done


def test_after_shutdown_nothing_is_open_and_nothing_goes_in(seen: dict[str, Any]) -> None:
    assert seen["last"]
    assert seen["closed"] == "cannot schedule new futures after shutdown"


def test_a_ray_started_here_goes_with_the_executor_and_any_other_stays(seen: dict[str, Any]) -> None:
    assert not seen["left"]
    assert seen["there still"]
    assert seen["address"] == "`address` must be None where Ray runs already in this process, found 'auto'"


@pytest.mark.slow
def test_a_ray_of_this_machine_s_own_starts_and_stops(tmp_path: Path) -> None:
    done = forked.run("-m", "tests.integrations.ray_cluster", tmp_path, "local", warn="error")
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads((tmp_path / "seen.json").read_text()) == [32, True, False]


class Stub:
    """As much of Ray as starts and stops."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def is_initialized(self) -> bool:
        return bool(self.told) and self.told[-1] != "shutdown"

    def init(self, *address: Any, **settings: Any) -> None:
        self.told += [*address, settings]

    def shutdown(self) -> None:
        self.told.append("shutdown")

    def remote(self, **settings: Any) -> Any:
        return lambda call: settings


def test_a_ray_is_started_at_the_address_quietly_and_shut_down_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub()
    monkeypatch.setitem(sys.modules, "ray", stub)
    with RayExecutor("local"):
        with RayExecutor():  # of what runs already
            pass
        assert stub.is_initialized()
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    assert stub.told == ["local", quiet, "shutdown"]


def test_without_ray_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'truestep\[ray\]'"):
        RayExecutor()

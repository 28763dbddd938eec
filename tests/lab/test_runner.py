"""The runner: what is finished is never run twice, and one failure stops no other trial."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from truestep.lab import Claim, Judgement, Measurement, Verdict
from truestep.lab._figure import panels
from truestep.lab._runner import Measured, Trial, measure, process_pool, run_trials

calls: list[int] = []


def run(seed: int, device: str) -> Measurement:
    calls.append(seed)
    if seed in failing:
        raise ArithmeticError("no\nluck")
    return {"value": float(seed), "drawn": torch.rand(()).item()}


failing: set[int] = set()


def judge(measurements: list[Measurement]) -> Judgement:
    return Judgement(Verdict.SUPPORTED, f"{len(measurements)} seeds")


def claim(name: str = "toy", run=run) -> Claim:
    return Claim(name, "000: nowhere", "s", "t", run, judge, lambda m: panels()[0], seeds=3)


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    calls.clear()
    failing.clear()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def trials(*seeds: int, name: str = "toy", device: str = "cpu") -> list[Trial]:
    return [Trial(claim(name), seed, device) for seed in seeds]


def test_results_come_in_the_order_of_the_trials(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    done = run_trials(trials(2, 0, 1), tmp_path, executor)
    assert [(trial.seed, measured.measurement["value"]) for trial, measured in done] == [(2, 2.0), (0, 0.0), (1, 1.0)]


def test_a_second_run_does_only_what_is_missing(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    first = run_trials(trials(0, 1), tmp_path, executor)
    second = run_trials(trials(0, 1, 2), tmp_path, executor)
    assert calls == [0, 1, 2]
    assert [measured for _, measured in second[:2]] == [measured for _, measured in first]


def test_fresh_runs_all_again(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    run_trials(trials(0, 1), tmp_path, executor)
    run_trials(trials(0, 1), tmp_path, executor, fresh=True)
    assert calls == [0, 1, 0, 1]


def test_a_failure_is_told_in_one_line_others_go_on_and_it_is_tried_again(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    failing.add(1)
    done = [measured for _, measured in run_trials(trials(0, 1, 2), tmp_path, executor)]
    assert [bool(measured.error) for measured in done] == [False, True, False]
    assert done[1].error.startswith("ArithmeticError: no luck (test_runner.py:")
    failing.clear()
    done = [measured for _, measured in run_trials(trials(0, 1, 2), tmp_path, executor)]
    assert calls == [0, 1, 2, 1]
    assert not any(measured.error for measured in done)


def test_every_trial_is_reported_whether_run_or_found(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    told: list[int] = []
    for _ in range(2):
        run_trials(trials(0, 1), tmp_path, executor, on_done=lambda trial, measured: told.append(trial.seed))
    assert told == [0, 1, 0, 1]


def test_an_interrupted_run_keeps_what_is_finished(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    def interrupt(trial: Trial, measured: Measured) -> None:
        if trial.seed == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trials(trials(*range(6)), tmp_path, executor, on_done=interrupt)
    executor.shutdown()  # the trial that was under way ends by itself; only its measurement is lost
    before = len(calls)
    assert {0, 1} <= {int(path.stem.split("-")[1]) for path in tmp_path.rglob("*.json")}
    with ThreadPoolExecutor(1) as pool:
        run_trials(trials(0, 1), tmp_path, pool)
    assert len(calls) == before


def test_claims_devices_and_sources_do_not_share_measurements(tmp_path: Path) -> None:
    other = Trial(Claim("toy", "", "", "", measure_elsewhere, judge, lambda m: panels()[0]), 0)
    paths = [t.path(tmp_path) for t in (*trials(0, 1), *trials(0, name="b"), *trials(0, device="cuda:1"), other)]
    assert len(set(paths)) == len(paths)
    assert ":" not in "".join(path.name for path in paths)


measure_elsewhere = json.dumps  # any function of another file


def test_a_half_written_measurement_is_run_again(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    run_trials(trials(0), tmp_path, executor)
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text()[:20])
    run_trials(trials(0), tmp_path, executor)
    assert calls == [0, 0]
    assert json.loads(file.read_text())["measurement"]["value"] == 0.0


def value_of(value: float, seed: int, device: str) -> Measurement:
    return {"value": value}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measurement_that_json_cannot_hold_is_a_failure(value: float) -> None:
    trial = Trial(claim(run=partial(value_of, value)), 0)
    assert measure(trial).error.startswith("ValueError: Out of range float values")


def test_what_torch_draws_by_itself_follows_the_seed() -> None:
    drawn = [measure(trial).measurement["drawn"] for trial in trials(3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_workers_share_the_cores_and_know_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truestep.lab._runner.cores", lambda: 4)
    with process_pool(workers=2, processes=1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_DFL


TOY = """
import os, time
from pathlib import Path
from truestep.lab._claim import Claim, Judgement, Verdict
from truestep.lab._figure import panels

HERE = Path(__file__).parent

def run(seed, device):
    with (HERE / "log").open("a") as log:
        log.write(f"{seed} ")
    if seed == 2 and not (HERE / "released").exists():
        time.sleep(600)
    return {"value": float(seed)}

def judge(measurements):
    return Judgement(Verdict.SUPPORTED, f"{len(measurements)} seeds")

def plot(measurements):
    return panels()[0]

CLAIM = Claim("toy", "000: nowhere", "s", "t", run, judge, plot, seeds=4)
"""
MAIN = """
import toy
from truestep.lab import _cli

if __name__ == "__main__":
    _cli.CLAIMS = (toy.CLAIM,)
    _cli.lab_app(["run", "--workers", "1"])
"""


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, as a terminal gives it: signals reach the workers too
    )


def stop(folder: Path, log: str, how: signal.Signals) -> "tuple[int, str]":
    """Start the run, wait until its log reads so and two seeds are stored, stop it; its exit code and output."""
    process = start(folder)
    while not ((folder / "log").exists() and (folder / "log").read_text() == log):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    while len(list(folder.rglob("cpu-*.json"))) < 2:
        time.sleep(0.05)
    os.killpg(process.pid, how)
    out, err = process.communicate()
    return process.returncode, out + err


def test_a_run_stopped_by_ctrl_c_and_by_kill_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "main.py").write_text(MAIN)
    code, output = stop(tmp_path, "0 1 2 ", signal.SIGINT)  # the third seed waits for ever
    assert code == 130, output
    assert "stopped; what is finished is in lab-runs. To go on: truestep lab run toy" in output
    assert "Traceback" not in output
    code, output = stop(tmp_path, "0 1 2 2 ", signal.SIGKILL)
    assert code == -signal.SIGKILL, output

    (tmp_path / "released").touch()
    finished = start(tmp_path)
    out, err = finished.communicate()
    assert finished.returncode == 0, err
    assert (tmp_path / "log").read_text() == "0 1 2 2 2 3 "
    assert "toy SUPPORTED  4 seeds" in out

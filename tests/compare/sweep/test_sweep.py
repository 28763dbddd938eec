"""Trials, each run once and kept."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.compare.sweep.trials import draw, draws, fail

from truestep.compare.sweep import Sweep, TrialError, content_hash

RAN: list[int] = []


@pytest.fixture(autouse=True)
def _none_ran() -> Iterator[None]:
    yield
    RAN.clear()


def note(number: int) -> dict[str, Any]:
    RAN.append(number)
    return {"number": number, "pair": (1, 2)}


def interrupt_once(number: int, flag: Path) -> dict[str, Any]:
    if not flag.exists():
        flag.touch()
        raise KeyboardInterrupt
    return note(number)


def test_results_come_in_the_order_of_the_trials() -> None:
    with Sweep(workers=0) as sweep:
        results = sweep.run([partial(note, number) for number in (3, 1, 2)])
    assert [result["number"] for result in results] == [3, 1, 2]


def test_equal_trials_run_once_and_each_gets_its_result() -> None:
    with Sweep(workers=0) as sweep:
        first, _, third = sweep.run([partial(note, 1), partial(note, 2), partial(note, 1)])
    assert RAN == [1, 2]
    assert first == third == {"number": 1, "pair": [1, 2]}
    assert first is not third


def test_what_the_store_has_is_not_run(tmp_path: Path) -> None:
    trials = [partial(note, number) for number in range(5)]
    with Sweep(tmp_path / "s.db", workers=0) as sweep:
        first = sweep.run(trials[:3], label="first")
    with Sweep(str(tmp_path / "s.db"), workers=0) as sweep:
        assert sweep.run(trials, label="second")[:3] == first
        assert [(trial.label, trial.hash) for trial in sweep.results()] == [
            (label, content_hash(trial)) for label, trial in zip(["first"] * 3 + ["second"] * 2, trials, strict=True)
        ]
    assert RAN == [0, 1, 2, 3, 4]


def test_a_sweep_without_a_file_keeps_its_results_while_it_lives() -> None:
    with Sweep(workers=0) as sweep:
        assert sweep.run([partial(note, 1)]) == sweep.run([partial(note, 1)])
    assert RAN == [1]


def test_a_failed_trial_is_told_at_the_end_and_all_others_are_kept() -> None:
    with Sweep(workers=0) as sweep:
        with pytest.raises(TrialError) as told:
            sweep.run([partial(note, 1), partial(fail, 5), partial(fail, 6), partial(note, 2)])
        assert str(told.value) == (
            "2 of 4 trials failed, the others are kept; the first: ArithmeticError: number 5 is not to be had"
        )
        assert [failure.hash for failure in told.value.failures] == [content_hash(partial(fail, n)) for n in (5, 6)]
        assert sweep.run([partial(note, 1), partial(note, 2)])
    assert RAN == [1, 2]


def test_a_failed_trial_is_run_again_by_the_next_call(tmp_path: Path) -> None:
    with Sweep(workers=0) as sweep:
        for _ in range(2):
            with pytest.raises(TrialError):
                sweep.run([partial(fail, 5)])
        (trial,) = sweep.results()
    assert trial.attempts == 2


def test_an_interrupt_ends_the_sweep_and_keeps_what_has_ended(tmp_path: Path) -> None:
    trials = [partial(note, 1), partial(interrupt_once, 2, tmp_path / "flag"), partial(note, 3)]
    with Sweep(workers=0) as sweep:
        with pytest.raises(KeyboardInterrupt):
            sweep.run(trials)
        assert [trial.result for trial in sweep.results()] == [{"number": 1, "pair": [1, 2]}]
        sweep.run(trials)
    assert RAN == [1, 2, 3]


def number_format() -> dict[str, Any]:
    return {"format": str(torch.ones(1).dtype)}


def test_the_drivers_number_format_goes_with_the_trials_and_is_part_of_them() -> None:
    told = []
    with Sweep(executor=Remote(in_float32)) as sweep:
        for dtype in (torch.float64, torch.float32):
            torch.set_default_dtype(dtype)
            told += sweep.run([number_format])
    assert [told[0]["format"], told[1]["format"]] == ["torch.float64", "torch.float32"]


def in_float32(future: Future[Any], call: Callable[[], Any]) -> None:
    """As a fresh process has it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    future.set_result(call())
    torch.set_default_dtype(before)


def test_a_pool_of_threads_gives_the_bits_of_a_serial_run() -> None:
    with ThreadPoolExecutor(4) as pool, Sweep(executor=pool) as threads, Sweep(workers=0) as serial:
        assert threads.run(draws(40)) == serial.run(draws(40))


def test_an_executor_that_was_given_is_left_open() -> None:
    with ThreadPoolExecutor(1) as pool:
        with Sweep(executor=pool) as sweep:
            sweep.run(draws(1))
        assert pool.submit(int, 3).result() == 3


@dataclass
class Remote(Executor):
    """Pickles what it is given, as one on another machine does, and ends a trial in its own way."""

    end: Callable[[Future[Any], Callable[[], Any]], None]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.end(future, pickle.loads(pickle.dumps(partial(fn, *args, **kwargs))))
        return future


def test_any_executor_will_do() -> None:
    with Sweep(executor=Remote(lambda future, call: future.set_result(call()))) as sweep:
        assert sweep.run([partial(note, 3)]) == [{"number": 3, "pair": [1, 2]}]


def test_an_executors_own_trouble_with_a_trial_is_that_trials_error() -> None:
    with (
        Sweep(executor=Remote(lambda future, call: future.set_exception(OSError("node lost")))) as sweep,
        pytest.raises(TrialError, match=r"^1 of 1 trials failed, the others are kept; the first: OSError: node lost$"),
    ):
        sweep.run(draws(1))


def test_a_trial_that_an_executor_cancelled_has_failed() -> None:
    with (
        Sweep(executor=Remote(lambda future, call: [future.cancel(), future.set_running_or_notify_cancel()])) as sweep,
        pytest.raises(TrialError, match="the first: CancelledError"),
    ):
        sweep.run(draws(1))


def test_an_executor_that_breaks_ends_the_sweep_with_advice_and_what_has_ended_is_kept() -> None:
    calls = []

    def end(future: Future[Any], call: Callable[[], Any]) -> None:
        calls.append(call)
        if len(calls) == 2:
            future.set_exception(BrokenExecutor("gone"))
        else:
            future.set_result(call())

    with Sweep(executor=Remote(end)) as sweep:
        with pytest.raises(RuntimeError, match=r"^`executor` broke \(BrokenExecutor: gone\); what has ended is kept"):
            sweep.run(draws(3))
        assert sorted(trial.result["number"] for trial in sweep.results() if trial.result) == [0, 2]


def test_a_lambda_is_refused_before_anything_runs() -> None:
    with (
        Sweep(workers=0) as sweep,
        pytest.raises(ValueError, match=r"<lambda>.*give functools.partial of an importable"),
    ):
        sweep.run([partial(note, 1), lambda: {}])  # noqa: PIE807
    assert RAN == []


class Holder:
    """A dataclass by its fields, of which pickle can make nothing."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle a Holder")


def test_what_cannot_be_pickled_is_refused_before_anything_runs() -> None:
    holder = dataclass(frozen=True)(Holder)()
    with ThreadPoolExecutor(1) as pool, Sweep(executor=pool) as sweep:
        with pytest.raises(ValueError, match=r"^`trials` must be picklable: cannot pickle a Holder; give functools"):
            sweep.run([partial(note, 1), partial(draw, holder)])
        assert RAN == []


def test_no_trials_need_no_worker(tmp_path: Path) -> None:
    with Sweep(tmp_path / "s.db") as sweep:
        assert sweep.run([]) == []


def test_workers_beside_an_executor_are_refused() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="`workers` is for the pool of this machine"):
        Sweep(executor=pool, workers=2)


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="`workers` must be at least 0, found -1"):
        Sweep(workers=-1)


def test_a_sweep_inside_a_trial_runs() -> None:
    with Sweep(workers=0) as sweep:
        assert sweep.run([nested]) == [{"inner": [{"number": 1, "pair": [1, 2]}]}]


def nested() -> dict[str, Any]:
    with Sweep(workers=0) as sweep:
        return {"inner": sweep.run([partial(note, 1)])}


def test_a_driver_with_more_threads_gets_the_same_bits() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with Sweep(workers=0) as sweep:
        results = sweep.run(draws(3))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert [result["threads"] for result in results] == [1, 1, 1]

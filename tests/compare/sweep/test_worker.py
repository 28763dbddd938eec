"""What happens where a trial runs."""

from __future__ import annotations

import json
import math
import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tests.compare.sweep.trials import draw, fail

from truestep.compare.sweep import run_trial
from truestep.compare.sweep._worker import ERROR_LENGTH, run_pickled

FLOATS = [0.1, 1e-320, math.pi, -0.0, 1.7976931348623157e308, math.inf, -math.inf]


def loaded(trial: Any) -> dict[str, Any]:
    outcome = run_trial(trial)
    assert outcome.error is None
    return json.loads(outcome.result or "")


def test_floats_come_back_bit_by_bit() -> None:
    assert [value.hex() for value in loaded(partial(dict, x=FLOATS))["x"]] == [value.hex() for value in FLOATS]
    assert math.isnan(loaded(partial(dict, x=math.nan))["x"])


def test_a_trial_gives_the_same_whatever_ran_before() -> None:
    first = loaded(partial(draw, 3))
    torch.manual_seed(5)
    random.seed(5)
    assert loaded(partial(draw, 3)) == first


def test_a_trial_starts_from_seed_0() -> None:
    torch.manual_seed(0)
    assert loaded(partial(drawn))["x"] == torch.rand(3).tolist()


def drawn() -> dict[str, Any]:
    return {"x": torch.rand(3).tolist(), "threads": torch.get_num_threads()}


def drawn_by_numpy() -> dict[str, Any]:
    return {"x": np.random.rand(), "format": str(torch.ones(1).dtype)}  # noqa: NPY002


def test_numpys_numbers_are_known_too() -> None:
    assert loaded(drawn_by_numpy)["x"] == loaded(drawn_by_numpy)["x"]


def test_a_trial_runs_in_the_drivers_number_format() -> None:
    outcome = run_pickled(pickle.dumps(drawn_by_numpy), torch.float64)
    assert json.loads(outcome.result or "")["format"] == "torch.float64"
    assert torch.get_default_dtype() == torch.float32


def test_random_numbers_and_threads_go_on_as_if_no_trial_had_been(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    before, numbers = (torch.get_rng_state(), random.getstate()), np.random.get_state()[1].tolist()  # noqa: NPY002
    run_trial(drawn_by_numpy)
    run_trial(partial(draw, 1))
    run_trial(partial(fail, 1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == numbers  # noqa: NPY002
    assert told == [1, 3] * 3


def test_threads_of_one_process_do_not_disturb_each_other() -> None:
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(run_trial, [partial(draw, number) for number in range(40)]))
    assert [json.loads(outcome.result or "") for outcome in outcomes] == [
        loaded(partial(draw, number)) for number in range(40)
    ]


def test_an_error_is_an_outcome_with_its_traceback() -> None:
    outcome = run_trial(partial(fail, 7))
    assert outcome.result is None
    assert "in fail\n" in (outcome.error or "")
    assert (outcome.error or "").endswith("ArithmeticError: number 7 is not to be had\n")


@pytest.mark.parametrize(
    ("trial", "error"),
    [
        (partial(sys.exit, 3), "SystemExit: 3"),
        (partial(list), "TypeError: a trial must return a dict that JSON can hold, found list"),
        (
            partial(dict, x=torch.ones(1)),
            "TypeError: a trial must return a dict that JSON can hold: Object of type Tensor is not JSON serializable; "
            "give numbers, texts and lists, as `tensor.tolist()`",
        ),
    ],
)
def test_what_gives_no_json_is_an_error(trial: Any, error: str) -> None:
    assert (run_trial(trial).error or "").splitlines()[-1] == error


def test_a_long_traceback_keeps_its_end() -> None:
    error = run_trial(partial(int, "x" * 3 * ERROR_LENGTH)).error or ""
    assert len(error) <= ERROR_LENGTH


def test_an_interrupt_is_not_a_trials_error() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_trial(interrupt)


def interrupt() -> dict[str, Any]:
    raise KeyboardInterrupt


def test_a_trial_that_cannot_be_imported_is_that_trials_error() -> None:
    data = pickle.dumps(partial(draw, 1)).replace(b"tests.compare", b"tests.compone")
    assert "ModuleNotFoundError: No module named 'tests.compone'" in (run_pickled(data).error or "")
    assert run_pickled(pickle.dumps(partial(dict, x=1))).result == '{"x": 1}'

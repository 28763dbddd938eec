"""A study filled through a sweep: Optuna's own loop, repeated from the store, with failures and interruptions."""

import math
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from tests.integrations.trials import bowl, fail

from truestep.compare.sweep import Sweep, TrialError, content_hash
from truestep.integrations.optuna import tune

optuna.logging.set_verbosity(optuna.logging.WARNING)


def study(**keywords: Any) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.TPESampler(seed=3, n_startup_trials=4), **keywords)


def suggested(trial: Any) -> Callable[[], Any]:
    return partial(bowl, trial.suggest_float("x", -1, 1), y=trial.suggest_float("y", -1, 1))


def loss(result: dict[str, float]) -> float:
    return result["loss"]


def points(of: optuna.Study) -> list[Any]:
    return [(trial.params, trial.values, trial.state) for trial in of.trials]


class Refusing(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("nothing is to be run")


def test_one_at_a_time_it_is_optuna_s_own_loop() -> None:
    ours, theirs = study(), study()
    with Sweep(workers=0) as sweep:
        tune(ours, suggested, sweep, value=loss, trials=12, batch=1)
    theirs.optimize(lambda trial: loss(suggested(trial)()), n_trials=12)
    assert points(ours) == points(theirs)


def test_side_by_side_it_asks_for_what_it_asks_for_one_after_another() -> None:
    serial, parallel = study(), study()
    with Sweep(workers=0) as sweep:
        tune(serial, suggested, sweep, value=loss, trials=10, batch=4)
    with ThreadPoolExecutor(2) as pool, Sweep(None, pool) as sweep:
        tune(parallel, suggested, sweep, value=loss, trials=10, batch=4)
    assert points(serial) == points(parallel)
    assert len(serial.trials) == 10


def test_a_study_made_again_finds_everything_in_the_store(tmp_path: Path) -> None:
    first, again = study(), study()
    with Sweep(tmp_path / "store.db", workers=0) as sweep:
        tune(first, suggested, sweep, value=loss, trials=9, batch=3)
        stored = {trial.hash: trial.result for trial in sweep.results()}
    with Sweep(tmp_path / "store.db", Refusing()) as sweep:
        tune(again, suggested, sweep, value=loss, trials=9, batch=3)
    assert points(first) == points(again)
    assert [stored[trial.user_attrs["trial"]] for trial in again.trials] == [{"loss": of.value} for of in first.trials]


def test_a_stopped_one_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    whole, again = study(), study()
    with Sweep(workers=0) as sweep:
        tune(whole, suggested, sweep, value=loss, trials=9, batch=3)
    with Sweep(tmp_path / "store.db", workers=0) as sweep:
        tune(study(), suggested, sweep, value=loss, trials=6, batch=3)
        tune(again, suggested, sweep, value=loss, trials=9, batch=3)
        assert len(sweep.results()) == 9
    assert points(whole) == points(again)


def test_a_study_that_has_trials_gets_the_missing_ones() -> None:
    one = study()
    one.enqueue_trial({"x": 0.3, "y": -0.2})
    with Sweep(workers=0) as sweep:
        tune(one, suggested, sweep, value=loss, trials=3, batch=2)
        tune(one, suggested, sweep, value=loss, trials=3, batch=2)
        assert (len(one.trials), one.best_value) == (3, 0.0)
        tune(one, suggested, sweep, value=loss, trials=4, batch=2)
    assert len(one.trials) == 4


def failing(trial: Any) -> Callable[[], Any]:
    return partial(fail, "broken") if trial.number == 1 else suggested(trial)


def test_failed_trials_are_told_as_failed_and_the_others_of_their_batch_with_their_values() -> None:
    one = study()
    with Sweep(workers=0) as sweep:
        with pytest.raises(TrialError, match=r"1 of 3 trials failed.*KeyError: 'broken'"):
            tune(one, failing, sweep, value=loss, trials=5, batch=3)
        assert [trial.state for trial in one.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
        assert one.trials[1].user_attrs["trial"] == content_hash(partial(fail, "broken"))
        tune(one, failing, sweep, value=loss, trials=5, batch=3)
    assert len(one.get_trials(states=(TrialState.COMPLETE,))) == 5
    assert [trial.value for trial in one.trials if trial.number != 1] == [
        pytest.approx(loss(bowl(**trial.params))) for trial in one.trials if trial.number != 1
    ]


class Interrupted(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt


def test_an_interrupted_batch_leaves_no_trial_open() -> None:
    one = study()
    with Sweep(None, Interrupted()) as sweep, pytest.raises(KeyboardInterrupt):
        tune(one, suggested, sweep, value=loss, trials=3, batch=3)
    assert [trial.state for trial in one.trials] == [TrialState.FAIL] * 3


@pytest.mark.parametrize(("direction", "worst"), [("minimize", math.inf), ("maximize", -math.inf)])
def test_nan_is_told_as_the_worst(direction: str, worst: float) -> None:
    one = study(direction=direction)
    with Sweep(workers=0) as sweep:
        tune(one, suggested, sweep, value=lambda result: math.nan, trials=6)
    assert [trial.value for trial in one.trials] == [worst] * 6


def test_a_study_of_two_directions_takes_two_values() -> None:
    one = study(directions=["minimize", "maximize"])
    with Sweep(workers=0) as sweep:
        tune(one, suggested, sweep, value=lambda result: (result["loss"], math.nan), trials=2)
        assert [trial.values[1] for trial in one.trials] == [-math.inf] * 2
        with pytest.raises(ValueError, match="`value` must give 2 numbers, one for each direction, found 1"):
            tune(one, suggested, sweep, value=loss, trials=3)


@pytest.mark.parametrize("name", ["trials", "batch"])
def test_less_than_one_is_refused(name: str) -> None:
    with Sweep(workers=0) as sweep, pytest.raises(ValueError, match=f"`{name}` must be at least 1, found 0"):
        tune(study(), suggested, sweep, value=loss, **{"trials": 1, "batch": 1, name: 0})

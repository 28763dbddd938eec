"""Optuna: its samplers suggest, a sweep runs, and the sweep's store has the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from truestep.compare.sweep import Sweep, TrialError, content_hash

if TYPE_CHECKING:
    from optuna import Study, Trial

__all__ = ["tune"]

Result = dict[str, Any]
Make = Callable[[Any], Callable[[], Result]]
Score = Callable[[Result], float | int | Sequence[float | int]]


def tune(
    study: Study, trial_of: Make, sweep: Sweep, *, value: Score, trials: int, batch: int = 8, label: str = ""
) -> None:
    """Fill a study: ask for suggestions, train them side by side as trials of a sweep, tell the values; again.

    What was trained stands in the sweep's store, and Optuna's trial has its hash as the user attribute "trial". So a
    study needs no storage: made again with the same `seed` of its sampler and the same `batch`, it asks for the same
    trials, which the store has, and goes on where it was stopped. A study with a storage goes on by itself.

    Args:
        study: Its sampler suggests; its direction says what is better.
        trial_of: The sweep's trial for a trial of Optuna's: `functools.partial` of an importable name, with suggested
            numbers in it.
        sweep: Runs them.
        value: What to tell of a trial's result: a number, or one for each direction. A nan is told as the worst.
        trials: How many the study shall have that are complete, with those it has.
        batch: How many are asked for before one is told: as many as the executor runs at once. More of them know less.
        label: Stands at the bar, and beside each trial in the store.

    Raises:
        ValueError: `trials` or `batch` is less than 1.
        TrialError: Trials failed; those of the same batch are told first. Optuna has the failed ones as failed.

    Example:
        >>> from functools import partial
        >>> import optuna
        >>> study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        >>> with Sweep(workers=0) as sweep:
        ...     tune(
        ...         study,
        ...         lambda trial: partial(dict, x=trial.suggest_float("x", -1.0, 1.0)),
        ...         sweep,
        ...         value=lambda result: result["x"] ** 2,
        ...         trials=20,
        ...         batch=2,
        ...     )
        >>> len(study.trials), study.best_value < 0.01
        (20, True)
    """
    from optuna.trial import TrialState

    for name, number in (("trials", trials), ("batch", batch)):
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, found {number}")
    while (missing := trials - len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))) > 0:
        _fill(study, trial_of, sweep, value, min(batch, missing), label)


def _fill(study: Study, trial_of: Make, sweep: Sweep, value: Score, batch: int, label: str) -> None:
    """One batch; whatever interrupts it, no trial is left open."""
    from optuna.trial import TrialState

    untold: list[Trial] = []
    try:
        made: list[Callable[[], Result]] = []
        for _ in range(batch):
            untold.append(study.ask())
            made.append(trial_of(untold[-1]))
            untold[-1].set_user_attr("trial", content_hash(made[-1]))
        results, error = _run(sweep, made, label)
        for asked, result in zip(list(untold), results, strict=True):
            if result is not None:
                study.tell(asked, _ordered(study, value(result)))
                untold.remove(asked)
        if error is not None:
            raise error
    finally:
        for asked in untold:
            study.tell(asked, state=TrialState.FAIL)


def _run(
    sweep: Sweep, made: Sequence[Callable[[], Result]], label: str
) -> tuple[list[Result | None], TrialError | None]:
    """The results, None for those that failed, and the failure."""
    try:
        return [*sweep.run(made, label=label)], None
    except TrialError as error:
        failed = {failure.hash for failure in error.failures}
        well = [trial for trial in made if content_hash(trial) not in failed]
        results = iter(sweep.run(well, label=label))  # from the store
        return [None if content_hash(trial) in failed else next(results) for trial in made], error


def _ordered(study: Study, value: float | int | Sequence[float | int]) -> list[float]:
    """The values, nan replaced by the worst: Optuna would count such a trial as failed, and ask there again."""
    from optuna.study import StudyDirection

    values = value if isinstance(value, Sequence) else [value]
    worst = [float("-inf") if of == StudyDirection.MAXIMIZE else float("inf") for of in study.directions]
    if len(values) != len(worst):
        raise ValueError(f"`value` must give {len(worst)} numbers, one for each direction, found {len(values)}")
    return [least if math.isnan(of) else float(of) for of, least in zip(values, worst, strict=True)]

from functools import partial

from truestep.compare._run_trials import run_trials
from truestep.compare.sweep import Sweep


def test_a_sweep_gives_what_this_process_gives_in_the_same_order() -> None:
    trials = [partial(dict, loss=x) for x in (3.0, 1.0, 2.0)]
    with Sweep(workers=0, progress=False) as sweep:
        assert run_trials(trials, sweep, "three") == run_trials(trials, None, "three") == [trial() for trial in trials]
        assert [trial.label for trial in sweep.results()] == ["three"] * 3

"""Is it better, or just faster per step? Matched steps, speed and swap tests, rankings, and the sweeps they run."""

from truestep.compare import problems
from truestep.compare._ada_belief import AdaBelief
from truestep.compare._belief import adabelief_growth, adabelief_speed
from truestep.compare._lion import Lion
from truestep.compare._sign_sgd import SignSGD
from truestep.compare.problems import Problem
from truestep.compare.rank import Protocol, Ranking, expected_best_of, kendall_tau, ranking
from truestep.compare.report import print_comparison, write_comparison
from truestep.compare.speed import PathTest, SpeedTest, speed_test
from truestep.compare.statistics import Interval, paired_interval
from truestep.compare.step_matched import MatchReport, Replay, StepMatched, replay
from truestep.compare.swap import SwapTest, swap_test
from truestep.compare.sweep import Sweep, TrialError
from truestep.compare.training import STACKABLE, Curves, Grafted, Matched, Replica, train, train_trial

__all__ = [
    "STACKABLE",
    "AdaBelief",
    "Curves",
    "Grafted",
    "Interval",
    "Lion",
    "MatchReport",
    "Matched",
    "PathTest",
    "Problem",
    "Protocol",
    "Ranking",
    "Replay",
    "Replica",
    "SignSGD",
    "SpeedTest",
    "StepMatched",
    "SwapTest",
    "Sweep",
    "TrialError",
    "adabelief_growth",
    "adabelief_speed",
    "expected_best_of",
    "kendall_tau",
    "paired_interval",
    "print_comparison",
    "problems",
    "ranking",
    "replay",
    "speed_test",
    "swap_test",
    "train",
    "train_trial",
    "write_comparison",
]

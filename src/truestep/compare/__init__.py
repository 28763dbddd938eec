"""Two optimizers, one step length: steps matched, problems to compare on, reference optimizers."""

from truestep.compare import problems
from truestep.compare._ada_belief import AdaBelief
from truestep.compare._lion import Lion
from truestep.compare._sign_sgd import SignSGD
from truestep.compare.problems import Problem
from truestep.compare.step_matched import MatchReport, StepMatched

__all__ = ["AdaBelief", "Lion", "MatchReport", "Problem", "SignSGD", "StepMatched", "problems"]

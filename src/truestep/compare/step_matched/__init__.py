"""Steps of a wanted length: any optimizer's direction, a length that is the same for all."""

from truestep.compare.step_matched._extent import Extent, extent
from truestep.compare.step_matched._factor import angular_factor, matching_factor, step_length
from truestep.compare.step_matched._replay import Replay, replay
from truestep.compare.step_matched._report import MatchReport
from truestep.compare.step_matched._step_matched import StepMatched

__all__ = [
    "Extent",
    "MatchReport",
    "Replay",
    "StepMatched",
    "angular_factor",
    "extent",
    "matching_factor",
    "replay",
    "step_length",
]

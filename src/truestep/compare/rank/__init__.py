"""The order of optimizers under several fair protocols, how sure it is, and what it depends on."""

from truestep.compare.rank._expected_best_of import expected_best_of
from truestep.compare.rank._kendall_tau import kendall_tau
from truestep.compare.rank._probabilities import RankProbabilities, rank_probabilities
from truestep.compare.rank._protocol import Protocol, judge_protocol
from truestep.compare.rank._ranking import Ranking, ranking

__all__ = [
    "Protocol",
    "RankProbabilities",
    "Ranking",
    "expected_best_of",
    "judge_protocol",
    "kendall_tau",
    "rank_probabilities",
    "ranking",
]

"""Every claim of the sources, judged.

A claim holds a sentence of a source, a threshold written before the run, an experiment with seeds, and a verdict:
`truestep lab list | run | report` at the command line.

Example:
    >>> for claim in CLAIMS[:3]:
    ...     print(claim.name)
    orthogonal_gradient
    growing_norm
    inverse_sqrt_decay
"""

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict
from truestep.lab._interval import Interval, t_interval
from truestep.lab.claims import CLAIMS

__all__ = ["CLAIMS", "Claim", "Interval", "Judgement", "Measurement", "Verdict", "t_interval"]

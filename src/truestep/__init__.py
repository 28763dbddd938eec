"""Know, set and compare the step your network really takes.

| room | what it is for |
|---|---|
| `truestep.core` | what a step is: the records, `Step`, `Recorder` |
| `truestep.invariance` | weights whose norm does not matter |
| `truestep.loss` | losses -> one scalar whose scale you know |
| `truestep.multitask` | several losses -> one, without one shouting |
| `truestep.conditioning` | the geometry a step meets |
| `truestep.recipe` | the same training at another batch size |
| `truestep.compare` | two optimizers, one step length |
| `truestep.monitor` | watch a run, report on it |
| `truestep.integrations` | the Trainers of other packages |
| `truestep.lab` | claims of the sources, judged |
"""

from truestep.core import Gram, Step, SumCount, gram
from truestep.monitor import Watch, watch

__version__ = "0.1.0"
__all__ = ["Gram", "Step", "SumCount", "Watch", "gram", "watch"]

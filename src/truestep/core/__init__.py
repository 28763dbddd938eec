"""What a step is: records that add up exactly, and the recorder that fills them from optimizer hooks."""

from truestep.core._additive import AbstractSum
from truestep.core._gram import Gram, gram
from truestep.core._hooks import warn
from truestep.core._moments import Moments, moments
from truestep.core._norm import scale_, squared_norm, squared_norms
from truestep.core._recorder import Recorder, never
from truestep.core._sharding import is_distributed
from truestep.core._step import Asked, Step
from truestep.core._sum_count import SumCount, sum_count
from truestep.core._task_gram import TaskGram, task_gram

__all__ = [
    "AbstractSum",
    "Asked",
    "Gram",
    "Moments",
    "Recorder",
    "Step",
    "SumCount",
    "TaskGram",
    "gram",
    "is_distributed",
    "moments",
    "never",
    "scale_",
    "squared_norm",
    "squared_norms",
    "sum_count",
    "task_gram",
    "warn",
]

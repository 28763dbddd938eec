"""Results as JSON knows them: plain numbers, lists and words; what is no finite number is null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

from torch import Tensor

from truestep.compare.rank import Ranking
from truestep.compare.speed import SpeedTest
from truestep.compare.swap import SwapTest


def as_dict(
    speed: Sequence[SpeedTest] = (), swap: Sequence[SwapTest] = (), ranking: Ranking | None = None
) -> dict[str, Any]:
    """Every field of the results by its name, and each result's `sentence`."""
    named = {"speed": list(speed), "swap": list(swap), "ranking": ranking}
    return {name: plain(value) for name, value in named.items()}


def plain(value: Any) -> Any:
    """The value in JSON's own types; keys that are tuples are joined by commas.

    Example:
        >>> plain({("a", "b"): Tensor([1.0, float("inf")]), 3: (None, True)})
        {'a,b': [1.0, None], '3': [None, True]}
    """
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {",".join(map(str, key)) if isinstance(key, tuple) else str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if is_dataclass(value):
        told = {"sentence": value.sentence} if hasattr(value, "sentence") else {}  # pyright: ignore[reportAttributeAccessIssue]
        return told | {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value

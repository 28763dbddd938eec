"""Trials in a sweep, or in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from truestep.compare.sweep import Sweep


def run_trials(trials: Sequence[partial[dict[str, Any]]], sweep: Sweep | None, label: str) -> list[dict[str, Any]]:
    """Their results, in order. Without a sweep here, one after another: a pool would start a user's script anew.

    Example:
        >>> from functools import partial
        >>> run_trials([partial(dict, loss=1.0)], None, "nothing")
        [{'loss': 1.0}]
    """
    return [trial() for trial in trials] if sweep is None else sweep.run(trials, label=label)

"""Facts of a run in words: status, steps, settings, cost, versions; and what differs between runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from truestep.monitor.report._record import Optimizer, Record, Span
from truestep.monitor.report._table import Headline

_SILENT: Final = 60.0  # seconds without a step before a running record is said to have stopped
_UNTOLD: Final = frozenset({"id", "created", "ended", "status", "cost_seconds", "wall_seconds", "period", "title"})
_INNER: Final = frozenset({"foreach", "fused", "capturable", "differentiable", "maximize", "initial_lr", "param_names"})


@dataclass(frozen=True, slots=True)
class Status:
    """What became of the run: `kind` is running, stopped, failed, finished or unknown; `text` says it in words."""

    kind: str
    text: str


def status(meta: Mapping[str, str], spans: Mapping[int, Span], now: float) -> Status:
    """The run's status at unix time `now`; a record left running without a step for long is said to have stopped."""
    kind = meta.get("status", "unknown")
    if kind != "running":
        return Status(kind, {"failed": "failed (an exception ended it)"}.get(kind, kind))
    last = max((span.ended for span in spans.values()), default=_float(meta, "created", now))
    taken = sum(span.taken for span in spans.values())
    pace = max((span.ended - span.began for span in spans.values()), default=0.0) / max(taken, 1)
    silence = now - last
    if silence > max(_SILENT, 20 * pace):
        return Status("stopped", f"stopped without being closed (killed?), {duration(silence)} before this page")
    return Status("running", "still running")


def facts(run: Record, rules: Mapping[int, Optimizer], spans: Mapping[int, Span], state: Status) -> dict[str, str]:
    """What a reader asks first of a run, in order: label to words."""
    meta = run.meta
    out = {} if state.text == state.kind else {"Status": state.text}
    for optimizer in rules.values():
        out[f"Optimizer {optimizer.name}"] = optimizer_words(optimizer)
        if optimizer.id in spans:
            out[f"Steps of {optimizer.name}"] = steps_words(spans[optimizer.id])
    cost, wall = _float(meta, "cost_seconds"), _float(meta, "wall_seconds")
    out["Cost of watching"] = (
        f"{100 * cost / wall:.2g} % of the run's time ({duration(cost)} of {duration(wall)})" if wall > 0 else "–"
    )
    out["Versions"] = ", ".join(f"{key} {meta[key]}" for key in ("truestep", "torch", "python") if meta.get(key))
    out["Device"] = meta.get("device", "") + (f", {meta['world_size']} ranks" if _ranks(meta) else "")
    out["Seed"] = meta.get("seed", "")
    out["Git"] = git_words(meta.get("git", ""))
    out["Command"] = command_words(meta.get("command", ""))
    return {label: text for label, text in out.items() if text}


def differences(facts_of: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Facts that are not the same in all runs, one text a run; a missing fact is a dash."""
    labels = dict.fromkeys(label for told in facts_of for label in told)
    columns = {label: [told.get(label, "–") for told in facts_of] for label in labels}
    return {label: texts for label, texts in columns.items() if len(set(texts)) > 1}


def settings(run: Record, rules: Mapping[int, Optimizer]) -> dict[str, str]:
    """Every setting by itself, for the comparison of runs: optimizers' by group, and the run's own."""
    out: dict[str, str] = {}
    for optimizer in rules.values():
        several = len(optimizer.settings) > 1
        out[f"{optimizer.name} rule"] = optimizer.rule
        for number, group in enumerate(optimizer.settings):
            where = f"{optimizer.name} group {number}" if several else optimizer.name
            told = {key: value for key, value in group.items() if key not in _INNER and value is not None}
            out |= {f"{where} {key}": _value(value) for key, value in told.items()}
    told = {key: value for key, value in run.meta.items() if key not in _UNTOLD}
    told["git"], told["command"] = git_words(told.get("git", "")), command_words(told.get("command", ""))
    return out | told


def verdict(head: Headline | None, taken: int, weights: int) -> str:
    """One sentence: how many of the model's `weights`, what was asked, what the median layer took."""
    if head is None:
        return "No step has been recorded yet." if not taken else f"{taken:,} steps taken, no angle recorded."
    layers = "1 layer" if head.layers == 1 else f"{head.layers:,} layers"
    layers = layers if weights <= head.layers else f"{head.layers:,} largest of {weights:,} layers"
    asked = f"asked lr {_lrs_words(head.lrs)}"
    if head.lrs_before and head.lrs_before != head.lrs:
        asked += f" (first quarter: {_lrs_words(head.lrs_before)})"
    who = "it" if head.layers == 1 else "the median layer"
    turned = f"{who} turned {1e3 * head.angle:.3g} mrad a step in the last quarter"
    if isfinite(head.ratio):
        turned += f", {head.ratio:.2f} of the predicted equilibrium"
    if isfinite(head.before):
        turned += f" (first quarter: {1e3 * head.before:.3g} mrad)"
    return f"{layers}; {asked}; {turned}."


def spread(head: Headline) -> str:
    """How far the layers are apart, and what became of the effective learning rate."""
    words: list[str] = []
    if head.layers > 1:
        (slow, least), (fast, most) = head.slowest, head.fastest
        words.append(f"Layers range from {1e3 * least:.3g} mrad ({slow}) to {1e3 * most:.3g} mrad ({fast}).")
    if isfinite(head.effective_change):
        whose = "Its" if head.layers == 1 else "Their median"
        words.append(f"{whose} effective lr is {head.effective_change:.3g} times that of the first quarter.")
    return " ".join(words)


def optimizer_words(optimizer: Optimizer) -> str:
    """Rule and settings: those that all groups share once, then each setting that differs, group by group."""
    groups = [{k: _value(v) for k, v in group.items() if _telling(k, v)} for group in optimizer.settings]
    if not groups:
        return optimizer.rule
    keys = dict.fromkeys(key for group in groups for key in group)
    words = [optimizer.rule]
    for key in keys:
        values = list(dict.fromkeys(group.get(key, "–") for group in groups))
        words.append(f"{key} {' | '.join(values[:6])}{' | …' if len(values) > 6 else ''}")
    return ", ".join(words) + (f" ({len(groups)} groups)" if len(groups) > 1 else "")


def steps_words(span: Span) -> str:
    """How many steps were taken, recorded and skipped."""
    text = f"{span.taken:,} taken, {span.recorded:,} recorded"
    return text + (f", {span.skipped:,} skipped" if span.skipped else "")


def git_words(text: str) -> str:
    """Commit, shortened, and whether the tree had changes."""
    try:
        state: Any = json.loads(text or "{}")
    except ValueError:
        return text
    if not isinstance(state, dict) or not state.get("commit"):
        return ""
    return str(state["commit"])[:12] + (" with changes" if state.get("dirty") else "")


def command_words(text: str) -> str:
    """The command line from its JSON list."""
    try:
        words: Any = json.loads(text or "[]")
    except ValueError:
        return text
    return " ".join(map(str, words)) if isinstance(words, list) else text


def duration(seconds: float) -> str:
    """Seconds in words of one unit.

    Example:
        >>> duration(0.25), duration(75.0), duration(7200.0)
        ('0.25 s', '75 s', '2 h')
    """
    for unit, size, least in (("d", 86400, 2), ("h", 3600, 2), ("min", 60, 2)):
        if seconds >= least * size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.3g} s"


def _lrs_words(lrs: Sequence[float]) -> str:
    return ", ".join(f"{lr:g}" for lr in lrs[:4]) + (", …" if len(lrs) > 4 else "") if lrs else "unknown"


def _telling(key: str, value: Any) -> bool:
    """Whether a setting says something: torch fills the rest with None, False and its own implementation switches."""
    return key not in _INNER and value is not None and value is not False and (key, value) != ("dampening", 0)


def _value(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _ranks(meta: Mapping[str, str]) -> bool:
    return meta.get("world_size", "1") not in ("", "1")


def _float(meta: Mapping[str, str], key: str, default: float = 0.0) -> float:
    try:
        return float(meta.get(key, default))
    except ValueError:
        return default

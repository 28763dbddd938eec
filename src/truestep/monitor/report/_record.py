"""What a page needs to know of a run record: blocks, optimizers, spans of steps, which blocks to draw."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

Settings = tuple[Mapping[str, Any], ...]

INVARIANT: Final = frozenset({"tensor", "unit", "group"})  # values of `block.symmetry` under which L(cw) = L(w)


@runtime_checkable
class Record(Protocol):
    """What is asked of a `truestep.monitor.Run`: its facts, and read-only SQL."""

    where: str
    """Path of the record, or what it is called in errors."""

    @property
    def meta(self) -> Mapping[str, str]:
        """Facts of the run: versions, seed, status, cost."""
        ...

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a SELECT."""
        ...


@dataclass(frozen=True, slots=True)
class Optimizer:
    """An optimizer of the run and the settings of its parameter groups."""

    id: int
    name: str
    rule: str
    settings: Settings

    @property
    def predicts(self) -> bool:
        """Whether its equilibrium depends on what was asked alone: SGD, plain or heavy-ball, and Adam, decoupled."""
        if self.rule in ("Adam", "AdamW"):  # torch's AdamW is an Adam with this setting; older records lack it
            decoupled = all(group.get("decoupled_weight_decay", self.rule == "AdamW") for group in self.settings)
            return decoupled and not any(group.get("amsgrad") for group in self.settings)
        altered = any(group.get("nesterov") or group.get("dampening") for group in self.settings)
        return self.rule == "SGD" and not altered


@dataclass(frozen=True, slots=True)
class Block:
    """A block (or unit) of weights as the record names it; `symmetry` is None where nobody has looked."""

    id: int
    name: str
    shape: tuple[int, ...]
    numel: int
    kind: str
    symmetry: str | None
    optimizer: int

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts blocks: whole matrices, then units of matrices, then biases and gains; the largest first."""
        weight = self.kind.endswith(".weight") or not self.kind
        unit = self.name.endswith("]")
        return (0 if weight and len(self.shape) >= 2 and not unit else 1 if weight and unit else 2), -self.numel


@dataclass(frozen=True, slots=True)
class Span:
    """Steps of one optimizer: all that were taken, and the first, last and number of those recorded."""

    taken: int
    skipped: int
    end: int
    began: float
    ended: float
    first: int | None
    last: int | None
    recorded: int


def optimizers(run: Record) -> dict[int, Optimizer]:
    """Optimizers of the run by id."""
    rows = run.query("SELECT id, name, rule, settings FROM optimizer ORDER BY id")
    return {id_: Optimizer(id_, name, rule, _settings(text)) for id_, name, rule, text in rows}


def blocks(run: Record) -> list[Block]:
    """Blocks that some optimizer moves, in the model's order."""
    sql = """SELECT id, name, shape, numel, kind, symmetry, optimizer FROM block
             WHERE optimizer IS NOT NULL ORDER BY id"""
    return [
        Block(id_, name, tuple(map(int, re.findall(r"\d+", shape or ""))), numel or 0, kind or "", symmetry, optimizer)
        for id_, name, shape, numel, kind, symmetry, optimizer in run.query(sql)
    ]


def spans(run: Record) -> dict[int, Span]:
    """Span of steps by optimizer; an optimizer without any step has none."""
    taken = run.query(
        """SELECT optimizer, COUNT(*), SUM(skipped), MAX(step), MIN(time), MAX(time) FROM step GROUP BY optimizer"""
    )
    recorded = run.query(
        """SELECT optimizer, MIN(step), MAX(step), COUNT(*)
           FROM (SELECT DISTINCT optimizer, step FROM block_step) GROUP BY optimizer"""
    )
    found = {row[0]: row[1:] for row in recorded}
    return {
        id_: Span(count, skipped or 0, end, began or 0.0, ended or 0.0, *found.get(id_, (None, None, 0)))
        for id_, count, skipped, end, began, ended in taken
    }


def choose(found: Iterable[Block], limit: int) -> list[Block]:
    """The `limit` blocks that say most, in the model's order; biases and gains only if there is nothing else."""
    ranked = sorted(found, key=lambda block: block.rank)
    weights = [block for block in ranked if block.rank[0] < 2]
    return sorted((weights or ranked)[:limit], key=lambda block: block.id)


def choose_names(runs: Sequence[Sequence[Block]], limit: int) -> list[str]:
    """Names to draw in all runs, at most `limit`: each run in turn adds its next best, so that none is left out."""
    queues = [sorted(choose(found, limit), key=lambda block: block.rank) for found in runs]
    names: dict[str, None] = {}
    for place in range(limit):
        for queue in queues:
            if place < len(queue) and len(names) < limit:
                names[queue[place].name] = None
    order = [block.name for found in runs for block in found if block.name in names]
    return list(dict.fromkeys(order))


def _settings(text: str | None) -> Settings:
    """Settings of the groups from their JSON; none where it is missing or torn."""
    try:
        groups = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(group for group in groups if isinstance(group, dict)) if isinstance(groups, list) else ()

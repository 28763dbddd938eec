"""What a record says of the blocks of a model: what they are, which came later, which are no longer finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from truestep.core import Step
from truestep.core._names import named_parameters
from truestep.monitor._facts import kinds
from truestep.monitor._inputs import held
from truestep.monitor._lane import Lane
from truestep.monitor.sinks import Store


class Blocks:
    """Writes down every block of the model, also those that no optimizer holds, and what becomes of them.

    Args:
        model: The model.
        lanes: The watched optimizers.
        store: Where to.
        units: Blocks that are recorded unit by unit.
        symmetries: Label of each block's symmetry, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        lanes: Sequence[Lane],
        store: Store,
        units: Sequence[str],
        symmetries: Mapping[str, str],
    ) -> None:
        self._model, self._lanes, self._store = model, lanes, store
        self._units, self._symmetries = units, symmetries
        self._known: dict[str, tuple[str, ...]] = {}
        self._nonfinite: set[str] = set()
        self._register()

    def note_added(self, step: Step) -> None:
        """Write down blocks that an optimizer moves from this step on and did not before."""
        known = self._known.get(step.optimizer)
        if step.names == known:
            return
        self._known[step.optimizer] = step.names
        if known is not None and (new := set(step.names) - set(known)):
            self._register()
            self._store.event("added", ", ".join(sorted(new)), self._number(step), step.index)

    def note_nonfinite(self, step: Step) -> None:
        """Tell, once a block, that its weights or gradients are not finite."""
        columns = step.took.columns()
        if bool(torch.isfinite(columns).all()):
            return
        bad = [name for name, ok in zip(step.names, torch.isfinite(columns).all(-1).tolist(), strict=True) if not ok]
        fresh = [name for name in bad if name not in self._nonfinite]
        self._nonfinite.update(fresh)
        if fresh:
            text = f"NaN or infinite weights or gradients in {', '.join(fresh)}"
            self._store.event("nonfinite", text, self._number(step), step.index)

    def _number(self, step: Step) -> int | None:
        return next((lane.number for lane in self._lanes if lane.recorder.name == step.optimizer), None)

    def _register(self) -> None:
        kind_of = kinds(self._model)
        owner = {id(p): lane.number for lane in self._lanes for p in held(lane.optimizer)}
        for name, p in named_parameters(self._model).items():
            kind, label, moved_by = kind_of.get(name, ""), self._symmetries.get(name), owner.get(id(p))
            self._store.block(name, tuple(p.shape), p.numel(), kind, label, moved_by)
            of_unit = f"part of a {label}" if label in ("tensor", "group", "joint") else label
            for unit in range(p.shape[0] if name in self._units and p.dim() else 0):
                self._store.block(
                    f"{name}[{unit}]", tuple(p.shape[1:]), p.numel() // p.shape[0], kind, of_unit, moved_by
                )

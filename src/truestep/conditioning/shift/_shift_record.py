"""What a measurement of covariate shift found, as rows and as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from truestep.conditioning.shift._layer_shift import LayerShift


@dataclass(frozen=True, slots=True)
class DirectPath:
    """Gradient through one normalization layer with its statistics held fixed, over the whole of it; without unit.

    Args:
        ratio: ‖direct‖ / ‖full‖ at the layer's input; 1 where no gradient passes the statistics, nan for no gradient.
        weight_ratio: The same at the weight of the layer whose output it takes; nan where there is none.
    """

    ratio: float
    weight_ratio: float


@dataclass(frozen=True, slots=True)
class CovariateShift:
    """What `covariate_shift` found, by name of the layer in the model's order; print it for a table.

    Args:
        layers: Linear and Conv2d layers.
        normalizations: Normalization layers; empty without a `loss_fn`.
        batches: Number of batches on this rank.
        train_mode: Whether the model was in training mode.
        skipped: Class, by name, of the modules that are normalization layers too (by type or by the name of their
            class), but were not measured; empty without a `loss_fn`.
    """

    layers: dict[str, LayerShift]
    normalizations: dict[str, DirectPath]
    batches: int
    train_mode: bool
    skipped: dict[str, str] = field(default_factory=dict[str, str])

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict a layer, nan where a number does not apply.

        Keys: layer, n, features, nu, largest, outlier, lower, upper, ics_share, direct, direct_weight.
        """
        absent = dict.fromkeys(("nu", "largest", "outlier", "lower", "upper", "ics_share", "direct", "direct_weight"))
        empty = {"n": 0, "features": 0} | dict.fromkeys(absent, math.nan)
        rows = [{"layer": name, **empty, **_numbers(shift)} for name, shift in self.layers.items()]
        for name, path in self.normalizations.items():
            rows.append({"layer": name, **empty, "direct": path.ratio, "direct_weight": path.weight_ratio})
        return rows

    def __str__(self) -> str:
        mode, batches = "train" if self.train_mode else "eval", f"{self.batches} batch{'es' * (self.batches != 1)}"
        title = f"covariate shift over {batches}, {mode} mode; a: activation of the layer's input"
        found = [_line(name, shift) for name, shift in self.layers.items()]
        lines = [title, *_table([_HEAD, *found])]
        if self.normalizations:
            paths = [(k or "model", _short(p.ratio), _short(p.weight_ratio)) for k, p in self.normalizations.items()]
            lines += ["", "gradient with the statistics held fixed, over the full one", *_table([_PATHS, *paths])]
        if self.skipped:
            told = ", ".join(f"{name or 'model'} ({kind})" for name, kind in self.skipped.items())
            lines += ["", f"normalization that is not measured: {told}"]
        return "\n".join(lines)


_HEAD = ("layer", "rows", "features", "ν [a²]", "λ1(Σ) [a²]", "ν/λ1(Σ)", "λ1(Ā) within [a²]", "ICS share")
_PATHS = ("normalization", "at its input", "at the weight before")


def _numbers(shift: LayerShift) -> dict[str, Any]:
    names = ("n", "nu", "largest", "outlier", "lower", "upper", "ics_share")
    return {"features": shift.mean.numel()} | {name: getattr(shift, name) for name in names}


def _line(name: str, shift: LayerShift) -> tuple[str, ...]:
    share = "-" if math.isnan(shift.ics_share) else f"{100 * shift.ics_share:.1f} %"
    numbers = [_short(x) for x in (shift.nu, shift.largest, shift.outlier)]
    within = f"{shift.lower:.4g} to {shift.upper:.4g}"
    return (name or "model", f"{shift.n}", f"{shift.mean.numel()}", *numbers, within, share)


def _short(x: float) -> str:
    return "-" if math.isnan(x) else f"{x:.4g}"


def _table(lines: list[tuple[str, ...]]) -> list[str]:
    """Columns below one another, the first one left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]

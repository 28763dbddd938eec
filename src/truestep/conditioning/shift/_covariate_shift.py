"""Covariate shift of every layer of a model: measured over batches and ranks, and put into a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from truestep.conditioning._layers import layers
from truestep.conditioning.shift._alone import alone
from truestep.conditioning.shift._direct import PathSums
from truestep.conditioning.shift._gradient_probe import GradientProbe
from truestep.conditioning.shift._ics_share import ShareSums
from truestep.conditioning.shift._input_probe import InputProbe, LayerSums
from truestep.conditioning.shift._layer_shift import LayerShift, layer_shift
from truestep.core._mean_loss import mean_loss
from truestep.core._names import unwrapped

LossFn = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class DirectPath:
    """Gradient through one normalization layer with its statistics held fixed, over the whole of it; without unit.

    Args:
        ratio: |direct| / |full| at the layer's input; 1 where no gradient passes the statistics, nan for no gradient.
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
    """

    layers: dict[str, LayerShift]
    normalizations: dict[str, DirectPath]
    batches: int
    train_mode: bool

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
        return "\n".join(lines)


def covariate_shift(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss_fn: LossFn | None = None,
    group: dist.ProcessGroup | None = None,
) -> CovariateShift:
    r"""Mean, variance and outlier eigenvalue at the input of every Linear and Conv2d layer.

    .. math:: \nu = \|m\|^2 + 1, \qquad \frac{\nu}{\lambda_1(\Sigma)}, \qquad
        \rho = \frac{E[(\bar m^\top \bar a)^2 / \nu \; \|\delta\|^2]}{E[\|\bar a\|^2 \|\delta\|^2]}

    with mean m and covariance :math:`\Sigma` of the rows a that a layer multiplies with its weight (`layer_shift` has
    the bounds that follow), :math:`\bar a = (a; 1)`, and the gradients :math:`\delta` at its outputs (`ics_share`).
    All are sums over batches and ranks, divided last. With a `loss_fn` there is one backward pass a batch, which also
    tells how much of the gradient goes through the statistics of each normalization layer (`DirectPath`).

    The model runs in the mode it is in, which matters: in evaluation no gradient passes the statistics of batch
    normalization. Weights, `.grad`, buffers, modes and random state are as before. DDP and torch.compile are taken off.

    Args:
        model: Its layers are hooked; every call of a shared one counts.
        batches: What `loss_fn` takes. Looked at twice with a `loss_fn`, first for the means; an iterator is kept as a
            list meanwhile.
        loss_fn: `loss_fn(model, batch)` gives a scalar mean, or (losses, weights). None only runs the model, on the
            batch itself, on its first entry where it is a tuple or list, or by keywords where it is a dict.
        group: Ranks that add up; None is all of them. Every rank of it must make this call.

    Raises:
        ValueError: If there is no batch, the model has no such layer, none was called, or the loss does not depend on
            one.

    Note:
        Every position (of a sequence, under a kernel) is a row. With (losses, weights) the gradients are those of the
        sum of all losses, however they were cut into batches; of a scalar mean the number of rows is taken as its
        weight. With a loss of the data's labels the share is the empirical Fisher's. What bypasses the module's call
        (the output projection of `torch.nn.MultiheadAttention`) is not seen.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1))
        >>> x = torch.tensor([[1.0, 5.0], [-1.0, 5.0]])
        >>> found = covariate_shift(model, [x])
        >>> found.layers["0"].nu, found.layers["0"].largest, found.layers["0"].outlier
        (26.0, 1.0, 26.0)
        >>> found = covariate_shift(model, [x], loss_fn=lambda model, x: model(x).square().mean())
        >>> found.layers["0"].ics_share > 0.9
        True

    References:
        Grosse, CSC 2541 (2021), lecture 5, "Internal covariate shift". Note: Deviation: a layer without bias has
        :math:`\nu = \|m\|^2`, and the direction of the outlier is :math:`(m; 1)`, not :math:`m`.
    """
    bare_model = unwrapped(model)
    batches = list(batches) if isinstance(batches, Iterator) else batches
    sums, count = _inputs(bare_model, batches, loss_fn)
    sums = {name: record.all_reduce(group) for name, record in sums.items()}
    _check(sums, count)
    sums = {name: record for name, record in sums.items() if float(record.n)}
    shifts = {name: _worst(record, layers(bare_model)[name].bias is not None) for name, record in sums.items()}
    if loss_fn is None:
        return CovariateShift(shifts, {}, count, bare_model.training)
    means = {name: record.a / record.n for name, record in sums.items()}
    shares, paths = _gradients(bare_model, batches, loss_fn, means)
    for name, share in shares.items():
        shifts[name] = replace(shifts[name], ics_share=float(share.all_reduce(group).share))
    found = {name: path.all_reduce(group) for name, path in paths.items()}
    direct = {name: DirectPath(float(path.ratio), float(path.weight_ratio)) for name, path in found.items()}
    return CovariateShift(shifts, direct, count, bare_model.training)


def _inputs(model: nn.Module, batches: Iterable[Any], loss_fn: LossFn | None) -> tuple[dict[str, LayerSums], int]:
    """The sums of every layer's inputs, and the number of batches."""
    count = 0
    with alone(model), torch.set_grad_enabled(loss_fn is not None):
        probe = InputProbe(model, tracked=loss_fn is not None)
        try:
            for batch in batches:
                count += 1
                _ = _run(model, batch) if loss_fn is None else loss_fn(model, batch)
        finally:
            probe.close()
    return probe.sums, count


def _gradients(
    model: nn.Module, batches: Iterable[Any], loss_fn: LossFn, means: dict[str, Tensor]
) -> tuple[dict[str, ShareSums], dict[str, PathSums]]:
    """The sums of every layer's share and of every normalization layer's paths."""
    with alone(model), torch.enable_grad():
        probe = GradientProbe(model, means)
        try:
            for batch in batches:
                probe.batch(lambda batch=batch: mean_loss(loss_fn(model, batch)))
        finally:
            probe.close()
    return probe.shares, probe.paths


def _run(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _check(sums: dict[str, LayerSums], batches: int) -> None:
    if not sums:
        msg = "`model` must have a Linear or Conv2d layer, found none; the others have no covariate shift measured"
        raise ValueError(msg)
    if not any(float(record.n) for record in sums.values()):
        called = "with gradients, on the `model` it is given" if batches else "; found no batch"
        msg = f"`batches` must make the model call one of its {len(sums)} Linear and Conv2d layers{called}"
        raise ValueError(msg)


def _worst(sums: LayerSums, bias: bool) -> LayerShift:
    """The shift of the group with the largest top eigenvalue, or of one that is not finite."""
    found = [replace(layer_shift(moments, bias=bias), group=i) for i, moments in enumerate(sums.moments)]
    return max(found, key=lambda shift: math.inf if math.isnan(shift.lower) else shift.lower)


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

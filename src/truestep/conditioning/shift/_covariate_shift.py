"""Covariate shift of every layer of a model: measured over batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from truestep.conditioning._layers import layers as layers_of
from truestep.conditioning.shift._alone import alone
from truestep.conditioning.shift._direct import PathSums
from truestep.conditioning.shift._gradient_probe import GradientProbe, skipped
from truestep.conditioning.shift._ics_share import ShareSums
from truestep.conditioning.shift._input_probe import InputProbe, LayerSums
from truestep.conditioning.shift._layer_shift import LayerShift, layer_shift
from truestep.conditioning.shift._shift_record import CovariateShift, DirectPath
from truestep.core._mean_loss import mean_loss
from truestep.core._names import bare, unwrapped

LossFn = Callable[[Any, Any], Any]


def covariate_shift(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss_fn: LossFn | None = None,
    group: dist.ProcessGroup | None = None,
    layers: Iterable[str] | None = None,
) -> CovariateShift:
    r"""Mean, variance and outlier eigenvalue at the input of every Linear and Conv2d layer, or of some.

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
        layers: Names of the Linear and Conv2d layers to measure; None is all of them. Of normalization layers all are
            measured; they cost no matrix. The weight before one is, if its layer is among the named.

    Raises:
        ValueError: If there is no batch, the model has no such layer, none was called, the loss does not depend on
            one, or `layers` names another.

    Note:
        Every position (of a sequence, under a kernel) is a row. With (losses, weights) the gradients are those of the
        sum of all losses, however they were cut into batches; of a scalar mean the number of rows is taken as its
        weight. With a loss of the data's labels the share is the empirical Fisher's. Gradients are squared row by
        row: where BatchNorm joins the rows of a batch in training, what its statistics cancel between them is not in
        the share; there `DirectPath` tells it.
        What bypasses the module's call (the output projection of `torch.nn.MultiheadAttention`) is not seen.

        Cost, for d features (of a convolution: in / groups · kernel size): each layer holds d² float64 numbers a group
        until all batches have run, where the model is (d = 4096: 134 MB), and 4 times that while its numbers are
        computed. Time is n d² operations for n rows, and from d = 1024 on some products of the matrix with a vector
        (`top_eigenvalue`), not its d³. Of a large model name some `layers`, or one at a time.

        Normalization layers are the batch, instance, layer, group and RMS norms of torch.nn and BatchCenter; further
        modules whose class is named a norm, and subclasses with a `forward` of their own, stand in `skipped`. Functions
        (`torch.nn.functional.layer_norm`) are not seen.

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
    names = _names(bare_model, layers)
    batches = list(batches) if isinstance(batches, Iterator) else batches
    sums, count = _inputs(bare_model, batches, loss_fn, names)
    shifts, means = _shifts(bare_model, sums, group)
    _check(shifts, names, count)
    if loss_fn is None:
        return CovariateShift(shifts, {}, count, bare_model.training)
    shares, paths = _gradients(bare_model, batches, loss_fn, means)
    for name, share in shares.items():
        shifts[name] = replace(shifts[name], ics_share=float(share.all_reduce(group).share))
    found = {name: path.all_reduce(group) for name, path in paths.items()}
    direct = {name: DirectPath(float(path.ratio), float(path.weight_ratio)) for name, path in found.items()}
    return CovariateShift(shifts, direct, count, bare_model.training, skipped(bare_model))


def _names(model: nn.Module, chosen: Iterable[str] | None) -> list[str]:
    """The layers to measure, in the model's order."""
    known = list(layers_of(model))
    if not known:
        msg = "`model` must have a Linear or Conv2d layer, found none; the others have no covariate shift measured"
        raise ValueError(msg)
    if chosen is None:
        return known
    asked = [bare(name) for name in ([chosen] if isinstance(chosen, str) else chosen)]
    if others := [name for name in asked if name not in known]:
        msg = f"`layers` must name Linear or Conv2d layers of `model` ({', '.join(known)}), found {', '.join(others)}"
        raise ValueError(msg)
    if not asked:
        msg = "`layers` must name one layer or more, found none; None is all of them"
        raise ValueError(msg)
    return [name for name in known if name in asked]


def _inputs(
    model: nn.Module, batches: Iterable[Any], loss_fn: LossFn | None, names: Collection[str]
) -> tuple[dict[str, LayerSums], int]:
    """The sums of every layer's inputs, and the number of batches."""
    count = 0
    with alone(model), torch.set_grad_enabled(loss_fn is not None):
        probe = InputProbe(model, tracked=loss_fn is not None, names=names)
        try:
            for batch in batches:
                count += 1
                _ = _run(model, batch) if loss_fn is None else loss_fn(model, batch)
        finally:
            probe.close()
    return probe.sums, count


def _shifts(
    model: nn.Module, sums: dict[str, LayerSums], group: dist.ProcessGroup | None
) -> tuple[dict[str, LayerShift], dict[str, Tensor]]:
    """Shift and mean of each layer that was called; its sums are given up as it is made, for they are large."""
    shifts: dict[str, LayerShift] = {}
    means: dict[str, Tensor] = {}
    for name in list(sums):
        record = sums.pop(name).all_reduce(group)
        if float(record.n):
            shifts[name] = _worst(record, layers_of(model)[name].bias is not None)
            means[name] = record.a / record.n
    return shifts, means


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


def _check(found: Mapping[str, LayerShift], names: Collection[str], batches: int) -> None:
    if not found:
        called = "with gradients, on the `model` it is given" if batches else "; found no batch"
        msg = f"`batches` must make the model call one of its {len(names)} Linear and Conv2d layers{called}"
        raise ValueError(msg)


def _worst(sums: LayerSums, bias: bool) -> LayerShift:
    """The shift of the group with the largest top eigenvalue, or of one that is not finite."""
    found = [replace(layer_shift(moments, bias=bias), group=i) for i, moments in enumerate(sums.moments)]
    return max(found, key=lambda shift: math.inf if math.isnan(shift.lower) else shift.lower)

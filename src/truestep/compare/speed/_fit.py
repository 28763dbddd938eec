"""The multiplier of A's lr, and the lag, at which A's loss curves come nearest to B's: on tensors of log losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from truestep.compare.speed._spline import delay_matrices, spline_matrix
from truestep.compare.statistics import Interval, calibrated_interval, resamples

DECADES: Final = 0.005  # spacing of the multipliers that are looked at; a parabola goes between
LAG_STEPS: Final = 20  # lags that are looked at
CHUNK: Final = 4_000_000  # numbers of one batch of resamples

Curves = Float64[Tensor, "seeds points"]


@dataclass(frozen=True, slots=True)
class Fit:
    """Where A comes nearest to B; distances in nats, root mean squares over seeds and points.

    Args:
        multiplier: Of A's lr, with its 95 % interval from a bootstrap over seeds.
        lag: Steps that B is behind; less than 0, ahead.
        residual: Distance left there.
        at_one: Distance of A at its own lr, no lag.
        floor: Distance between two copies of B.
        explained: Share of the squared distance at one, floor off, that is gone at the multiplier; nan without any.
        early: Signed mean of A - B over the first half of the points.
        late: Over the second half.
        at_edge: Whether the multiplier is the first or the last that was looked at.
        fitted: A's curves there, by the spline; nan where a lag below 0 asks for steps that A has not done.
    """

    multiplier: Interval
    lag: float
    residual: Interval
    at_one: Interval
    floor: float
    explained: float
    early: float
    late: float
    at_edge: bool
    fitted: Float64[Tensor, "seeds points"]


@dataclass(frozen=True, slots=True)
class Grid:
    """What A's curves are between the multipliers and the points where they were read.

    Args:
        y: A's log losses, the start first; of the multipliers at which all of A's runs are finite.
        decades: Decimal logarithms of these multipliers, rising.
        steps: Steps at the points.
    """

    y: Float64[Tensor, "multipliers seeds start_points"]
    decades: Float64[Tensor, " multipliers"]
    steps: tuple[int, ...]

    def at(self, decades: Float64[Tensor, " places"], lags: Float64[Tensor, " lags"]) -> Float64[Tensor, "..."]:
        """Curves of A at these multipliers and lags, [lags, places, seeds, points]."""
        delayed = torch.einsum("lpq,msq->lmsp", delay_matrices(self.steps, lags), self.y)
        return torch.einsum("cm,lmsp->lcsp", spline_matrix(self.decades, decades), delayed)

    def distances(
        self, decades: Float64[Tensor, " places"], lags: Float64[Tensor, " lags"], y_b: Curves
    ) -> Float64[Tensor, "seeds lags places"]:
        """Mean squares of A - B, seed by seed, over the points known at every lag: none is left out to suit."""
        known = delay_matrices(self.steps, lags).isfinite().all(-1).all(0)
        squares = [(self.at(decades, lag[None])[0] - y_b)[..., known] ** 2 for lag in lags]
        return torch.stack([each.mean(-1).T for each in squares], 1)


def fit_speed(
    grid: Grid, y_b: Curves, y_b_again: Curves, *, at_one: Curves | None = None, largest_lag: float | int = 0.0
) -> Fit:
    r"""Least squares over multiplier c and lag t0: :math:`D^2 = \mathrm{mean}_{t,s} (y_A(t - t_0; c) - y_B(t))^2`.

    Args:
        grid: A's curves.
        y_b: Log losses of B, of the same seeds at the same points.
        y_b_again: Of B's second copy.
        at_one: Of A at its own lr; by default, from the grid.
        largest_lag: Up to which lag is looked for, from 0; below 0, B may be ahead.

    Raises:
        ValueError: There are fewer than two seeds.
        ImportError: scipy is not installed.

    Example:
        >>> import torch
        >>> steps, decades = tuple(range(10, 210, 10)), torch.linspace(-1, 1, 9, dtype=torch.float64)
        >>> time = torch.tensor([0, *steps]) * 10.0 ** decades[:, None]
        >>> a = torch.stack([-0.01 * time, -0.02 * time], 1)  # two seeds, losses that fall at a constant rate
        >>> b = 3 * a[4, :, 1:]
        >>> fit = fit_speed(Grid(a, decades, steps), b, b)
        >>> round(fit.multiplier.mean, 2)
        3.0
    """
    decades = fine_decades(grid.decades)
    lags = torch.linspace(0, float(largest_lag), LAG_STEPS + 1 if largest_lag else 1, dtype=torch.float64)
    distances = grid.distances(decades, lags, y_b)
    found = nearest(distances.mean(0, keepdim=True))
    again = resampled(distances)
    spacing = float(decades[1] - decades[0])
    place = float(decades[0]) + spacing * float(found.place)
    lag = float(largest_lag) / LAG_STEPS * float(found.lag) + 0.0  # which is never -0
    fitted = grid.at(*(torch.tensor([x], dtype=torch.float64) for x in (place, lag)))[0, 0]
    one = grid.at(torch.zeros(1, dtype=torch.float64), lags[:1])[0, 0] if at_one is None else at_one
    residual, unfitted, floor = _rms(fitted - y_b), _rms(one - y_b), _rms(y_b - y_b_again)
    seeds = len(y_b)
    logs = calibrated_interval(place, float(decades[0]) + spacing * again.place, seeds)
    squares = ((one - y_b) ** 2).mean(-1)
    half = (y_b.shape[1] + 1) // 2
    return Fit(
        Interval(*(10**x for x in (logs.mean, logs.low, logs.high))),
        lag,
        _positive(calibrated_interval(residual, again.square.sqrt(), seeds)),
        _positive(calibrated_interval(unfitted, (resamples(seeds) @ squares).sqrt(), seeds)),
        floor,
        _explained(residual, unfitted, floor),
        float((fitted - y_b)[:, :half].nanmean()),
        float((fitted - y_b)[:, half:].nanmean()),
        bool(found.at_edge),
        fitted,
    )


@dataclass(frozen=True, slots=True)
class Nearest:
    """The smallest mean square of each row, and where it is, in spacings of the grid, between its points."""

    square: Float64[Tensor, " rows"]
    lag: Float64[Tensor, " rows"]
    place: Float64[Tensor, " rows"]
    at_edge: Bool[Tensor, " rows"]


def nearest(squares: Float64[Tensor, "rows lags places"]) -> Nearest:
    """The minimum over multipliers for every lag, then over lags, each by the parabola through the best three.

    Example:
        >>> import torch
        >>> x, t = torch.arange(9.0, dtype=torch.float64), torch.arange(5.0, dtype=torch.float64)[:, None]
        >>> nearest(((x - t - 1.3) ** 2 + (t - 2.25) ** 2)[None]).place  # a slanting valley
        tensor([3.5500], dtype=torch.float64)
    """
    place, square = _lowest(squares)
    lag, least = _lowest(square)
    low = lag.floor().long().clamp(0, max(place.shape[1] - 2, 0))
    high = (low + 1).clamp_max(place.shape[1] - 1)
    ends = [place.gather(1, index[:, None])[:, 0] for index in (low, high)]
    best = torch.lerp(ends[0], ends[1], lag - low)
    return Nearest(least.clamp_min(0), lag, best, (best <= 0) | (best >= squares.shape[-1] - 1))


def resampled(distances: Float64[Tensor, "seeds lags places"]) -> Nearest:
    """`nearest`, made anew in each bootstrap resample of the seeds."""
    weights = resamples(len(distances))
    rows = max(1, CHUNK // distances[0].numel())
    parts = [nearest(torch.einsum("rs,slc->rlc", some, distances)) for some in weights.split(rows)]
    return Nearest(*(torch.cat([getattr(part, name) for part in parts]) for name in Nearest.__slots__))


def fine_decades(decades: Float64[Tensor, " multipliers"]) -> Float64[Tensor, " places"]:
    """Evenly spaced from the first to the last, by .005 decades or nearly so."""
    count = round(float(decades[-1] - decades[0]) / DECADES)
    return torch.linspace(float(decades[0]), float(decades[-1]), max(count, 1) + 1, dtype=torch.float64)


def trained(losses: Float64[Tensor, "multipliers seeds points"]) -> slice:
    """The longest row of neighbouring multipliers at which every run stayed finite.

    Example:
        >>> import torch
        >>> trained(torch.tensor([1.0, torch.inf, 1.0, 1.0, torch.nan], dtype=torch.float64)[:, None, None])
        slice(2, 4, None)
    """
    best, start = slice(0, 0), 0
    for index, finite in enumerate([*losses.isfinite().flatten(1).all(1).tolist(), False]):
        if not finite:
            best = slice(start, index) if index - start > best.stop - best.start else best
            start = index + 1
    return best


def _lowest(values: Float64[Tensor, "*rows places"]) -> tuple[Float64[Tensor, "*rows"], Float64[Tensor, "*rows"]]:
    """Place and value of the lowest point of each row, by the parabola through it and its neighbours; ends as is."""
    last = values.shape[-1] - 1
    index = values.argmin(-1, keepdim=True)
    before, here, after = (values.gather(-1, (index + by).clamp(0, last))[..., 0] for by in (-1, 0, 1))
    bend = before - 2 * here + after
    inside = (index[..., 0] > 0) & (index[..., 0] < last) & (bend > 0)
    offset = torch.where(inside, (before - after) / torch.where(inside, 2 * bend, 1), 0)
    return index[..., 0] + offset, here - (before - after) * offset / 4


def _rms(differences: Curves) -> float:
    return math.sqrt(float((differences**2).nanmean()))


def _explained(residual: float, unfitted: float, floor: float) -> float:
    whole = unfitted**2 - floor**2
    return 1 - max(residual**2 - floor**2, 0) / whole if whole > 0 else math.nan


def _positive(interval: Interval) -> Interval:
    return Interval(interval.mean, max(interval.low, 0.0), interval.high)

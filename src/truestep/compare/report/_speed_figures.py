"""Figures of a speed test: the curves, the distance over the multiplier, and what is left over time."""

from __future__ import annotations

from math import isfinite

from truestep._page import Figure, axis_of, faint, log_axis, loss_axis, numbers
from truestep.compare.report._lines import (
    LEGEND,
    OF_A,
    OF_B,
    OTHER,
    finite,
    geometric_mean,
    line,
    over_steps,
    over_values,
)
from truestep.compare.speed import SpeedTest

HOVER = "loss %{y:.4~g}"


def curves(test: SpeedTest) -> Figure:
    """A at its multiples, A at the best one, B and its copy; loss over steps."""
    own = {"width": 1.0, "color": OTHER}
    data = [
        line(f"A at lr {test.lr_a * m:.3g}", test.steps, geometric_mean(test.losses_a[i]), HOVER, OTHER)
        | {"line": own, "opacity": 0.55, "showlegend": False, "hoverinfo": "skip", "hovertemplate": None}
        for i, m in enumerate(test.multipliers)
    ]
    fitted, b, again = map(geometric_mean, (test.fitted, test.losses_b, test.losses_b_again))
    nearest = f"A at lr {test.lr_a * test.multiplier:.3g}{', lag taken off' if round(test.lag) else ''}"
    data += [
        line("B's copy", test.steps, again, HOVER, OF_B, line={"color": OF_B, "width": 1.2, "dash": "dot"}),
        line(f"B at lr {test.lr_b:.3g}", test.steps, b, HOVER, OF_B, line={"color": OF_B, "width": 3}),
        line(nearest, test.steps, fitted, HOVER, OF_A, line={"color": OF_A, "width": 2, "dash": "dash"}),
    ]
    if (at_one := _at_one(test)) is not None:
        data.append(line(f"A at lr {test.lr_a:.3g}, its own", test.steps, at_one, HOVER, OF_A))
    shown = finite([*fitted, *b, *again, *(at_one or ())])
    layout = over_steps(test.steps, axis_of("loss on the probe", None, loss_axis(shown)))
    layout["legend"] = LEGEND | {"traceorder": "reversed"}
    return {"data": data, "layout": layout}


def distances(test: SpeedTest) -> Figure:
    """Distance between A at each multiple and B, without a lag; the best one, with its lag, is a point."""
    gaps = [_distance(test, i) for i in range(len(test.multipliers))]
    ends = [min(test.multipliers), max(test.multipliers)]
    data = [
        line("A against B, no lag", test.multipliers, gaps, "%{y:.3~g} nats", OF_A, mode="lines+markers"),
        line("best", [test.multiplier], [test.residual], "%{y:.3~g} nats", OF_B, mode="markers", marker={"size": 11}),
        line("counts as equal", ends, [test.threshold] * 2, "%{y:.3~g} nats", OTHER)
        | {"line": {"color": OTHER, "dash": "dash", "width": 1.4}},
    ]
    if test.floor > 0:  # a full batch has no noise of order
        dotted = {"line": {"color": OTHER, "dash": "dot", "width": 1.4}}
        data.append(line("two copies of B", ends, [test.floor] * 2, "%{y:.3~g} nats", OTHER) | dotted)
    seen = [v for v in (*gaps, test.residual, test.threshold, test.floor) if isfinite(v) and v > 0]
    layout = over_values(
        axis_of("multiple of A's lr", None, log_axis(test.multipliers, least=3)),
        axis_of("distance, nats", None, log_axis(seen)),
        "multiple %{x:.3~g}",
    )
    return {"data": data, "layout": layout}


def residuals(test: SpeedTest) -> Figure:
    """Log A − log B over the steps, at the best multiple: mean over seeds in a band from the least to the greatest."""
    gap = test.fitted.log() - test.losses_b.log()
    noise = test.losses_b_again.log() - test.losses_b.log()
    edge: Figure = {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(test.steps),
        "hoverinfo": "skip",
        "showlegend": False,
    }
    edge["line"] = {"width": 0, "color": OF_A}
    data = [
        edge | {"y": numbers(gap.amin(0).tolist())},
        edge | {"y": numbers(gap.amax(0).tolist()), "fill": "tonexty", "fillcolor": faint(OF_A)},
        line("B's copy − B", test.steps, noise.mean(0).tolist(), "%{y:+.3~f} nats", OF_B)
        | {"line": {"color": OF_B, "dash": "dot", "width": 1.4}},
        line("A − B", test.steps, gap.mean(0).tolist(), "%{y:+.3~f} nats", OF_A),
    ]
    axis = axis_of("log A − log B, nats", None, {}, zeroline=True)
    return {"data": data, "layout": over_steps(test.steps, axis, height=320)}


def _at_one(test: SpeedTest) -> list[float] | None:
    """A's curve at its own lr, where it was trained there."""
    near = [i for i, m in enumerate(test.multipliers) if abs(m - 1) < 1e-6]
    return geometric_mean(test.losses_a[near[0]]) if near else None


def _distance(test: SpeedTest, place: int) -> float:
    """Root mean square over seeds and points of the difference of the log losses; not finite where A diverged."""
    return float((test.losses_a[place].log() - test.losses_b.log()).square().mean().sqrt())

"""Figures: valid to plotly, one colour a layer, gaps where there is no number."""

import base64
from array import array
from dataclasses import replace
from math import isnan, log10, nan

import pytest

from truestep.monitor.report import _figures
from truestep.monitor.report._axes import axes_for, cut_axis
from truestep.monitor.report._figures import LAYERS, Layer, coarser
from truestep.monitor.report._heat import heat_map
from truestep.monitor.report._queries import Losses, Taken

ONE = Taken(
    rows=1,
    first=0,
    last=0,
    at=0.0,
    lr=0.1,
    predicted=0.02,
    effective_lr=0.001,
    w=10.0,
    g=2.0,
    d=1.0,
    radial=-0.01,
    growth=0.01,
    relative=0.1,
    angle=0.1,
)


def layer(name="fc.weight", place=0, steps=3, target=True, **changes) -> Layer:
    return Layer(name, place, {n: replace(ONE, at=float(n), **changes) for n in range(steps)}, target)


def axes(*layers: Layer):
    taken = [t for one in layers for t in one.bins.values()]
    return axes_for(taken, taken, taken, [0.1], 2)


def values(packed) -> list[float]:
    code = {"f4": "f", "i4": "i"}[packed["dtype"]]
    return list(array(code, base64.b64decode(packed["bdata"])))


LAYER, OTHER = layer(), layer("conv.weight", 1, predicted=nan)
LOSSES = Losses("SGD", (0.0, 1.0), (0.5, 0.4), (1.0, 0.5), (2.0, 0.6), 0)


@pytest.mark.parametrize(
    "figure",
    [
        _figures.asked_and_taken({"SGD": [(0, 0.1), (2, 0.1)]}, [LAYER, OTHER], axes(LAYER, OTHER)),
        _figures.asked_and_taken({}, [], axes()),
        heat_map([LAYER, OTHER], axes(LAYER, OTHER)),
        _figures.effective([LAYER, OTHER], axes(LAYER, OTHER)),
        _figures.norms([LAYER, OTHER], axes(LAYER, OTHER)),
        _figures.loss([("run", "#123456", LOSSES)], axes()),
    ],
    ids=["asked", "empty", "heat", "effective", "norms", "loss"],
)
def test_plotly_knows_every_property(figure) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    ink = {"line": {"color": "black"}}
    data = [trace | ink if trace.get("line", {}).get("color") == "ink" else trace for trace in figure["data"]]
    drawn = graph_objects.Figure(data=data, layout=figure["layout"]).to_plotly_json()  # refuses what it does not know
    assert [trace["type"] for trace in drawn["data"]] == [trace.get("type", "scatter") for trace in data]
    assert {key for key, value in figure["layout"].items() if value != []} <= drawn["layout"].keys()


def test_a_layer_has_one_colour_and_one_place_in_all_figures() -> None:
    shared = axes(LAYER, OTHER)
    for draw in (_figures.effective, _figures.norms, lambda a, b: _figures.asked_and_taken({}, a, b)):
        traces = [trace for trace in draw([LAYER, OTHER], shared)["data"] if "meta" in trace]
        assert {(trace["meta"], trace["line"]["color"]) for trace in traces} == {(0, LAYERS[0]), (1, LAYERS[1])}


def test_angles_are_drawn_in_milliradians_and_what_is_no_number_is_a_gap() -> None:
    one = Layer("fc.weight", 0, {0: ONE, 1: replace(ONE, at=1.0, angle=nan), 2: replace(ONE, at=2.0, angle=0.0226)})
    angle = _figures.asked_and_taken({}, [one], axes(one))["data"][0]
    drawn = values(angle["y"])
    assert (drawn[0], drawn[2]) == pytest.approx((100.0, 22.6))
    assert isnan(drawn[1])
    assert values(angle["x"]) == [0, 1, 2]


def test_a_shared_prediction_is_one_dashed_line_with_its_value() -> None:
    figure = _figures.asked_and_taken({}, [LAYER, layer("b", 1)], axes(LAYER))
    (target,) = [trace for trace in figure["data"] if trace["line"].get("dash") == "dash"]
    assert values(target["y"]) == pytest.approx([20.0] * 3)
    assert target["line"]["color"] == "ink"
    assert figure["layout"]["annotations"][0]["text"] == "predicted<br>20 mrad"
    assert figure["layout"]["annotations"][0]["y"] == pytest.approx(log10(20))


def test_different_predictions_are_dashed_in_their_layers_colours() -> None:
    figure = _figures.asked_and_taken({}, [LAYER, layer("b", 1, predicted=0.03)], axes(LAYER))
    dashed = [trace for trace in figure["data"] if trace["line"].get("dash") == "dash"]
    assert [(trace["meta"], trace["line"]["color"]) for trace in dashed] == [(0, LAYERS[0]), (1, LAYERS[1])]


def test_no_target_is_drawn_for_a_block_known_to_have_none() -> None:
    figure = _figures.asked_and_taken({}, [layer(target=False)], axes(LAYER))
    assert all(trace["line"].get("dash") != "dash" for trace in figure["data"])


def test_the_heat_map_has_a_row_a_layer_and_a_gap_where_a_layer_has_no_row() -> None:
    late = Layer("late.weight", 1, {2: replace(ONE, at=2.0, angle=0.01)})
    heat = heat_map([LAYER, late], axes(LAYER, late))["data"][0]
    assert heat["z"]["shape"] == "2, 3"
    z, told = values(heat["z"]), values(heat["customdata"])
    assert z[:3] + z[5:] == pytest.approx([2.0, 2.0, 2.0, 1.0])
    assert [isnan(v) for v in z] == [False, False, False, True, True, False]
    assert told[5] == pytest.approx(10.0)


def test_a_coarser_layer_keeps_every_recorded_step() -> None:
    fine = Layer("fc.weight", 3, {n: replace(ONE, first=n, last=n, at=float(n)) for n in range(5, 205)})
    rough = coarser(fine, 40)
    assert len(rough.bins) == 40
    assert sum(t.rows for t in rough.bins.values()) == 200
    assert (rough.name, rough.place, rough.colour) == (fine.name, fine.place, fine.colour)


def test_names_keep_their_markup_visible_and_their_templates_shut() -> None:
    name = "<b>%{x}</b>"
    figure = _figures.effective([layer(name)], axes(LAYER))
    trace = figure["data"][0]
    assert trace["name"] == "&lt;b&gt;%&#123;x}&lt;/b&gt;"
    assert trace["hovertemplate"].count("%{") == 1
    assert "<b>" not in trace["hovertemplate"]


def test_a_range_holds_all_values_but_the_growths_outliers() -> None:
    low, high = cut_axis([0.0, *[1.0] * 98, 1000.0])["range"]
    assert (low, high) == (0.0, 2.0)

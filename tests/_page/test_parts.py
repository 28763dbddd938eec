"""Parts of figures."""

import pytest

from truestep._page import COLOURS, axis_of, faint, steps_layout, trace_of


def test_a_few_points_are_drawn_as_points_too() -> None:
    assert trace_of("a", [0.0], [1.0], "%{y}")["mode"] == "lines+markers"
    assert trace_of("a", [0.0] * 13, [1.0] * 13, "%{y}")["mode"] == "lines"


def test_a_name_is_never_markup_nor_a_template() -> None:
    trace = trace_of("<b>%{x}</b>", [0.0], [1.0], "%{y}")
    assert "<b>" not in trace["name"] + trace["hovertemplate"]
    assert trace["hovertemplate"].count("%{") == 1


def test_few_steps_have_a_tick_each() -> None:
    assert steps_layout((0.0, 5.0), height=100)["xaxis"]["dtick"] == 1
    assert "dtick" not in steps_layout((0.0, 50.0), height=100)["xaxis"]


def test_an_axis_keeps_its_own_settings_and_takes_its_place() -> None:
    axis = axis_of("loss", [0.0, 0.5], {"type": "log"}, anchor="x")
    assert axis == {"title": {"text": "loss"}, "zeroline": False, "type": "log", "domain": [0.0, 0.5], "anchor": "x"}


@pytest.mark.parametrize("colour", COLOURS)
def test_a_band_has_its_line_s_colour(colour: str) -> None:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    assert faint(colour) == f"rgba({r},{g},{b},0.22)"

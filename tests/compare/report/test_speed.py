"""A speed test in words."""

from dataclasses import replace
from math import inf, nan

from truestep.compare.report._speed import speed_sections


def cells(speed) -> dict[str, str]:
    return {row[0]: row[1] for row in speed_sections([speed])[0].tables[-1].rows}


def test_every_quantity_is_told_with_its_unit(speed) -> None:
    assert cells(speed) == {
        "verdict": "SPED-UP",
        "multiplier": "1.57 [1.55, 1.58]",
        "lag": "2.4 steps",
        "residual": "0.03 [0.027, 0.033] nats",
        "at A's own lr": "0.51 nats",
        "floor": "0.015 nats",
        "counts as equal": "0.05 nats",
        "explained": "99.7 %",
        "early, late": "−0.0012, 0.0031 nats",
        "path": "0.63 % (34 % at A's own lr)",
    }


def test_without_a_path_test_there_is_no_row_of_it_and_nothing_to_explain_is_a_dash(speed) -> None:
    told = cells(replace(speed, path=None, explained=nan))
    assert "path" not in told
    assert told["explained"] == "–"


def test_curves_that_hardly_fall_are_told_for_they_are_equal_at_any_lr(speed) -> None:
    assert speed_sections([speed])[0].warnings == ()
    still = replace(speed, moved=0.105)
    (warning,) = speed_sections([still])[0].warnings
    assert "B's loss changes by 0.105 nats in 300 steps and 0.05 count as equal" in warning
    assert speed_sections([replace(still, threshold=0.02)])[0].warnings == ()
    assert speed_sections([replace(still, threshold=inf)])[0].warnings == ()


def test_several_tests_stand_in_one_table_and_then_each_in_full(speed) -> None:
    other = replace(speed, b="Lion(lr=0.001)", verdict="DIFFERENT")
    first, *each = speed_sections([speed, other])
    assert [row[1:3] for row in first.tables[0].rows] == [
        ("AdaBelief(lr=0.001)", "SPED-UP"),
        ("Lion(lr=0.001)", "DIFFERENT"),
    ]
    assert [section.title.split(" → ")[1] for section in each] == ["AdaBelief(lr=0.001)", "Lion(lr=0.001)"]
    assert {panel.id for section in each for panel in section.panels} == {
        f"{kind}-{n}" for kind in ("curves", "distances", "residuals") for n in (0, 1)
    }

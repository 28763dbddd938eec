"""Swap tests in words, and their figures."""

from dataclasses import replace

import pytest
from tests.pages import unpacked

from truestep.compare.report._swap import arms, effects, swap_section


def test_norms_of_one_pair_stand_beside_each_other_and_another_pair_in_its_own_table(swap) -> None:
    tests = [swap, replace(swap, norm="relative", scope="tensor"), replace(swap, b="Lion(lr=0.001)")]
    section = swap_section(tests)
    assert [table.head[1:] for table in section.tables] == [
        ("lengths in l2, over all weights", "lengths in relative, in each tensor"),
        ("lengths in l2, over all weights",),
    ]
    assert [row[1] for row in section.tables[0].rows] == [
        "−0.513 [−0.52, −0.506]",
        "−0.478 [−0.486, −0.469]",
        "−0.035 [−0.038, −0.032]",
        "0.009 [0.007, 0.011]",
        "93 % [92, ∞]",
    ]
    assert len({panel.id for panel in section.panels}) == 6


def test_colour_tells_whose_direction_and_a_dash_the_other_s_length(swap) -> None:
    drawn = {trace["name"]: trace["line"] for trace in arms(swap)["data"]}
    assert {name: line["dash"] for name, line in drawn.items()} == {
        "A&#x27;s direction, A&#x27;s length": "solid",
        "A&#x27;s direction, B&#x27;s length": "dash",
        "B&#x27;s direction, A&#x27;s length": "dash",
        "B&#x27;s direction, B&#x27;s length": "solid",
    }
    colours = [line["color"] for line in drawn.values()]
    assert colours[0] == colours[1] != colours[2] == colours[3]


def test_an_effect_is_a_point_with_both_ends_of_its_interval(swap) -> None:
    (trace,) = effects(swap)["data"]
    assert unpacked(trace["x"]) == pytest.approx([-0.513, -0.478, -0.035, 0.009])
    assert unpacked(trace["error_x"]["array"])[1] == pytest.approx(0.009)
    assert unpacked(trace["error_x"]["arrayminus"])[1] == pytest.approx(0.008)

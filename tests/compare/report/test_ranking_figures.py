"""Figures of a ranking: what is drawn is what was measured."""

from dataclasses import replace

import pytest
import torch
from tests.pages import unpacked

from truestep.compare.report._ranking import ranking_section
from truestep.compare.report._ranking_figures import loss_against_knob


def test_a_curve_carries_its_optimizer_s_place_and_marks_the_best_value(ranking) -> None:
    (panel,) = [panel for panel in ranking_section(ranking).panels if panel.id == "knob-0"]
    traces = panel.draw()["data"]
    assert [trace["meta"] for trace in traces] == [0, 1, 2]
    assert traces[0]["marker"]["size"] == [5, 12, 5]
    losses = unpacked(traces[0]["y"])
    assert losses[:2] == pytest.approx([0.99 ** (1 / 3), (0.1 * 0.12 * 0.09) ** (1 / 3)], rel=1e-6)
    assert losses[2] != losses[2]  # a seed diverged there
    assert panel.draw()["layout"]["xaxis"]["type"] == "log"


def test_the_axis_ends_a_little_above_the_loss_of_the_smallest_lr_where_others_blew_up(ranking) -> None:
    (protocol,) = [p for p in ranking.protocols if p.name == "tuned lr"]
    losses = {name: torch.tensor([[2.0] * 3, [0.1] * 3, [1e15] * 3], dtype=torch.float64) for name in protocol.losses}
    drawn = loss_against_knob(replace(protocol, losses=losses), dict.fromkeys(losses, 0))
    assert drawn["layout"]["yaxis"]["range"][1] < 1  # decades


def test_rows_of_the_heat_map_are_in_order_of_rank_and_add_up_to_one(ranking) -> None:
    (panel,) = [panel for panel in ranking_section(ranking).panels if panel.id == "probability-2"]
    (cells,) = panel.draw()["data"]
    assert cells["y"][0] == "adam"
    assert unpacked(cells["z"]).sum(1) == pytest.approx([1, 1, 1])
    assert unpacked(cells["z"])[0, 0] == pytest.approx(ranking.protocols[2].probabilities[1, 0].item())

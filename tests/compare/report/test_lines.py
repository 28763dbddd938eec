"""Means over seeds, and what a figure is made of."""

from math import inf, isnan

import torch

from truestep.compare.report._lines import finite, geometric_mean, line, over_steps, over_values


def test_a_mean_over_seeds_is_geometric_and_a_seed_that_diverged_is_not_passed_over() -> None:
    losses = torch.tensor([[1.0, 1.0, 0.0], [100.0, inf, 0.0]])
    mean = geometric_mean(losses)
    assert abs(mean[0] - 10) < 1e-9
    assert mean[1] == inf
    assert 0 < mean[2] < 1e-200
    assert isnan(geometric_mean(torch.tensor([[torch.nan], [1.0]]))[0])


def test_only_numbers_set_the_axes() -> None:
    assert finite([1.0, inf, float("nan"), -2.0]) == [1.0, -2.0]


def test_names_keep_their_markup_visible() -> None:
    trace = line("<b>%{x}", [1.0], [2.0], "%{y}", "#000000")
    assert trace["name"].startswith("&lt;b&gt;")
    assert "%{x}" not in trace["hovertemplate"]


def test_a_hover_over_a_knob_tells_the_knob_and_not_a_step() -> None:
    layout = over_values({}, {}, "lr %{x}")
    assert layout["xaxis"]["unifiedhovertitle"]["text"] == "lr %{x}"
    assert "unifiedhovertitle" not in over_steps([1, 2], {})["xaxis"]

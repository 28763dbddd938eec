"""Figures of a speed test: what is drawn is what was measured."""

from dataclasses import replace
from math import inf, isnan, log, nan

import pytest
import torch
from tests.pages import unpacked

from truestep.compare.report._speed import speed_sections


def figure(speed, id_: str) -> dict:
    (section,) = speed_sections([speed])
    (panel,) = [panel for panel in section.panels if panel.id == id_]
    return panel.draw()


def test_a_curve_is_drawn_for_every_multiple_for_the_best_one_and_for_b_and_its_copy(speed) -> None:
    drawn = figure(speed, "curves-0")
    names = [trace["name"] for trace in drawn["data"]]
    assert names[6:] == ["B&#x27;s copy", "B at lr 0.001", "A at lr 0.00157, lag taken off", "A at lr 0.001, its own"]
    at_one = unpacked(drawn["data"][-1]["y"])
    assert at_one[0] == pytest.approx(speed.losses_a[2, :, 0].log().mean().exp().item(), rel=1e-6)
    assert sum(isnan(value) for value in unpacked(drawn["data"][5]["y"])) == 27  # diverged from the fourth point on


def test_the_axis_is_set_by_what_is_compared_and_not_by_a_curve_that_blew_up(speed) -> None:
    losses = speed.losses_a.clone()
    losses[4] = 1e9
    top = figure(replace(speed, losses_a=losses), "curves-0")["layout"]["yaxis"]["range"][1]
    assert top < 1


def test_the_distance_at_a_multiple_is_the_root_mean_square_of_the_log_ratio(speed) -> None:
    losses = speed.losses_b * torch.tensor([1.1, 1 / 1.1] * 15, dtype=torch.float64)
    multiples = torch.stack([losses, speed.losses_b * 2, speed.losses_b])
    test = replace(speed, losses_a=multiples, multipliers=(0.5, 1.0, 2.0))
    gaps, best, *_ = figure(test, "distances-0")["data"]
    assert unpacked(gaps["y"]) == pytest.approx([log(1.1), log(2), 0], rel=1e-6)
    assert (unpacked(best["x"])[0], unpacked(best["y"])[0]) == pytest.approx((1.567, 0.03))


def test_a_full_batch_has_no_floor_to_draw(speed) -> None:
    names = [trace["name"] for trace in figure(replace(speed, floor=0.0), "distances-0")["data"]]
    assert names[-1] == "counts as equal"


def test_what_is_left_is_signed_and_banded_from_the_least_seed_to_the_greatest(speed) -> None:
    factors = torch.tensor([0.9, 1.0, 1.0, 1.3], dtype=torch.float64)[:, None]
    least, greatest, _, mean = figure(replace(speed, fitted=speed.losses_b * factors), "residuals-0")["data"]
    assert unpacked(least["y"])[3] == pytest.approx(log(0.9), rel=1e-5)
    assert unpacked(greatest["y"])[3] == pytest.approx(log(1.3), rel=1e-5)
    assert unpacked(mean["y"])[3] == pytest.approx((log(0.9) + log(1.3)) / 4, rel=1e-5)


def test_a_test_where_all_diverged_is_drawn_all_the_same(speed) -> None:
    lost = torch.full_like(speed.losses_a, inf)
    test = replace(speed, losses_a=lost, fitted=lost[0], verdict="UNBOUNDED", residual=nan, threshold=inf)
    (section,) = speed_sections([test])
    assert all(panel.draw()["data"] for panel in section.panels)

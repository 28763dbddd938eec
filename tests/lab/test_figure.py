"""Figures: the same numbers give the same file."""

from pathlib import Path

from truestep.lab import Measurement
from truestep.lab._figure import draw, panels


def plot(measurements: list[Measurement]):
    figure, (left, right) = panels(2)
    left.plot(measurements[0]["curve"], label="‖w‖²")
    right.plot([1, 2], [2, 1])
    left.legend()
    return figure


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(plot, [{"curve": [1.0, 2.0]}], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_figure_can_be_a_png(tmp_path: Path) -> None:
    draw(plot, [{"curve": [1.0, 2.0]}], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

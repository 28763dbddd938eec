"""The console line, worked out by hand."""

from math import atan, nan

import pytest
import torch

from truestep.core import Asked, Gram, Step
from truestep.monitor.sinks import _console
from truestep.monitor.sinks._console import Console, line


def a_step(index: int = 120, *, ww: list[float], dd: list[float], skipped: bool = False, lr: float = 0.1) -> Step:
    """Blocks whose displacement stands at right angles to the weight: the angle is atan |d|/|w|."""
    w, d = torch.tensor(ww, dtype=torch.float64), torch.tensor(dd, dtype=torch.float64)
    zero, unknown = torch.zeros_like(w), torch.full_like(w, nan)
    names = tuple(f"b{i}" for i in range(len(ww)))
    asked = Asked(torch.full_like(w, lr), *[unknown] * 5)
    return Step("SGD", index, 0.0, nan, nan, skipped, names, asked, Gram(w, zero, zero, zero, zero, d))


def test_the_line_says_how_far_the_blocks_turned_and_what_it_cost() -> None:
    step = a_step(ww=[1.0, 1.0, 4.0], dd=[1e-4, 4e-4, 1e-2])  # tan: 10, 20 and 50 mrad
    assert 1e3 * atan(0.02) == pytest.approx(20.0, abs=0.01)
    assert line(step, 0.123456, 0.5, 8, 0.0061) == (
        "truestep SGD step 120 | loss 0.1235 | turned 20 mrad (median of 3 blocks, spread x5) | "
        "effective lr 0.5 of its start | recorded 1 in 8 | watching cost 0.61 %"
    )


def test_what_is_not_known_is_left_out() -> None:
    still = a_step(ww=[1.0, 0.0], dd=[0.0, 0.0])
    assert line(still, None, nan, 1, 0.0) == "truestep SGD step 120 | recorded 1 in 1 | watching cost 0 %"


def test_blocks_that_did_not_move_or_are_not_finite_are_not_counted() -> None:
    step = a_step(ww=[1.0, 1.0, nan, 0.0], dd=[1e-4, 0.0, 1.0, 1.0])
    assert "turned 10 mrad (median of 1 blocks, spread x1)" in line(step, None, nan, 1, 0.0)


def test_a_skipped_step_says_so_and_not_how_far_it_turned() -> None:
    step = a_step(ww=[1.0], dd=[1e-4], skipped=True)
    assert "| skipped |" in line(step, None, nan, 1, 0.0)
    assert "mrad" not in line(step, None, nan, 1, 0.0)


class Printed:
    """A console under a clock that the test turns."""

    def __init__(self, interval: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.lines = 1000.0, list[str]()
        monkeypatch.setattr(_console.time, "monotonic", lambda: self.now)
        self.console = Console(interval, self.lines.append)

    def at(self, seconds: float, step: Step, loss: float | torch.Tensor | None = None) -> int:
        """Lines printed by a step `seconds` after the start."""
        self.now, before = 1000.0 + seconds, len(self.lines)
        self.console.step(step, loss, 1, 0.0)
        return len(self.lines) - before


def test_the_first_line_comes_after_five_seconds_and_then_one_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    printed, step = Printed(30.0, monkeypatch), a_step(ww=[1.0], dd=[1e-4])
    assert [printed.at(seconds, step) for seconds in (0, 4.9, 5, 6, 34.9, 35, 36, 65)] == [0, 0, 1, 0, 0, 1, 0, 1]


def test_a_short_interval_does_not_wait_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    printed, step = Printed(0.0, monkeypatch), a_step(ww=[1.0], dd=[1e-4])
    assert [printed.at(seconds, step) for seconds in (0, 0, 1)] == [1, 1, 1]


def test_none_prints_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    printed = Printed(None, monkeypatch)
    assert printed.at(1e6, a_step(ww=[1.0], dd=[1e-4])) == 0
    assert capsys.readouterr().out == ""


def test_the_effective_lr_is_compared_with_the_run_s_first_step_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = Printed(30.0, monkeypatch)
    printed.at(0, a_step(ww=[1.0, 2.0, 0.0], dd=[1e-4] * 3))
    printed.at(10, a_step(ww=[4.0, 4.0, 1.0], dd=[1e-4] * 3, lr=0.2), torch.tensor(2.5))
    # 0.2/4 over 0.1/1 = 0.5, 0.2/4 over 0.1/2 = 1; the third had no effective lr; torch's median is the lower one
    assert "| effective lr 0.5 of its start |" in printed.lines[0]
    assert "| loss 2.5 |" in printed.lines[0]


def test_lines_are_printed_where_nothing_else_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Console(0.0).step(a_step(ww=[1.0], dd=[1e-4]), None, 1, 0.0)
    assert capsys.readouterr().out.startswith("truestep SGD step 120 | turned 10 mrad")

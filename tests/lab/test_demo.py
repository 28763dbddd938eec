"""`truestep demo` from end to end, short, and its table from numbers typed in."""

import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from truestep.cli import app
from truestep.lab._demo_runs import Trained, demo
from truestep.lab.demo import changes, show, table
from truestep.monitor import load_run
from truestep.monitor.report import quarters


def printed(*shown: object) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(*shown)
    return out.getvalue()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory and the output of a demo of 40 steps."""
    directory = tmp_path_factory.mktemp("demo") / "runs"
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["demo", "--steps", "40", "--dir", str(directory)])
    assert result.exit_code == 0, result.output
    return directory, result.output


def test_the_demo_writes_two_records_and_a_report_and_says_where(ran: tuple[Path, str]) -> None:
    directory, output = ran
    page = directory / "report.html"
    assert sorted(path.name for path in directory.iterdir()) == ["report.html", "weight-decay-0", "weight-decay-0.005"]
    for name in ("weight-decay-0", "weight-decay-0.005"):
        with load_run(directory / name) as record:
            assert record.meta["status"] == "finished"
            assert [step.index for step in record.steps] == list(range(0, 40, 2))
        assert str(directory / name) in output
    assert f"Report: {page.resolve()}" in output
    text = page.read_text()
    assert "weight decay 0.005" in text
    assert "conv1.weight" in text


def test_the_demo_prints_first_and_last_quarter_of_every_layer_for_both_runs(ran: tuple[Path, str]) -> None:
    output = ran[1]
    for name in ("conv1.weight", "conv2.weight", "conv3.weight", "head.weight"):
        assert len(re.findall(rf"^ ?{re.escape(name)} +first ", output, re.MULTILINE)) == 2
    assert len(re.findall(r"^ +last ", output, re.MULTILINE)) == 8
    assert "norm1" not in output


def test_the_demo_leaves_the_number_of_threads_as_it_was(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    try:
        show(tmp_path, steps=2, seed=0, console=Console(file=io.StringIO()))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_demo_of_a_few_steps_works_too(steps: int, tmp_path: Path) -> None:
    assert show(tmp_path, steps=steps, seed=0, console=Console(file=io.StringIO())).exists()


def test_the_table_shows_what_the_record_holds(tmp_path: Path) -> None:
    run: Trained = demo(tmp_path, steps=8)[1]
    with load_run(run.run_dir) as record:
        rows = quarters(record)
        shown, factors = printed(table(run, rows)), printed(changes(run, rows))
        angles = {
            name: record.query(
                "SELECT avg(ww), avg(lr / ww) FROM block_step JOIN block ON block = id WHERE name = ? AND step < 2",
                (name,),
            )[0]
            for name in ("conv1.weight",)
        }
    (line,) = re.findall(r"conv1.weight +first +(.+)", shown)
    lr, angle, predicted, relative, effective = line.split()
    assert (lr, predicted) == ("0.1", "22.9")  # sqrt(2 * 0.1 * 5e-3 / 1.9) = 22.94 mrad
    assert float(effective) == pytest.approx(angles["conv1.weight"][1], rel=0.05)
    assert float(angle) / 1e3 == pytest.approx(
        float(relative), rel=0.05
    )  # a small step that turns and hardly stretches
    assert re.search(r"head.weight +first +0.1 +[\d.]+ +none ", shown)
    (line,) = re.findall(r"conv1.weight +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)", factors)
    whole, gradient, norm, rest = map(float, line)
    assert whole == pytest.approx(gradient * norm * rest, rel=0.03)

"""`truestep lab`: what it prints, where it writes, and one line with exit code 2 for what is wrong."""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from truestep.lab import CLAIMS, Claim, Judgement, Measurement, Verdict, _cli, t_interval
from truestep.lab._figure import panels

shift = {"value": 0.0, "verdict": Verdict.SUPPORTED, "failing": -1}


def run(seed: int, device: str) -> Measurement:
    if seed == shift["failing"]:
        raise ArithmeticError("[bold]no luck[/]")
    return {"value": shift["value"] + seed}


def judge(measurements: Sequence[Measurement]) -> Judgement:
    values = [value for m in measurements if not isinstance(value := m["value"], list)]
    return Judgement(shift["verdict"], f"mean {t_interval(values).mean:g}", {"value": t_interval(values)})


TOYS = tuple(
    Claim(name, "000: nowhere", f"{name} says", "t", run, judge, lambda m: panels()[0], seeds=3)
    for name in ("toy", "other")
)


@pytest.fixture(autouse=True)
def _toys_in_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_cli, "CLAIMS", TOYS)
    monkeypatch.setattr(_cli, "COMMITTED", tmp_path / "committed")
    monkeypatch.setattr(_cli, "process_pool", lambda workers, processes: ThreadPoolExecutor(1))
    monkeypatch.setitem(shift, "value", 0.0)
    monkeypatch.setitem(shift, "verdict", Verdict.SUPPORTED)
    monkeypatch.setitem(shift, "failing", -1)


def lab(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(_cli.lab_app, list(arguments))


def assert_one_line(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("truestep lab: ")
    assert all(word in line for word in words), line


def test_run_judges_all_claims_and_writes_beside_the_measurements() -> None:
    result = lab("run")
    assert result.exit_code == 0, result.output
    assert "toy SUPPORTED  mean 1" in result.stdout
    assert "other: judged for the first time, SUPPORTED." in result.stdout
    assert sorted(path.name for path in Path("lab-runs/results").iterdir()) == [
        "other.json",
        "other.svg",
        "toy.json",
        "toy.svg",
    ]
    assert not Path("committed").exists()


def test_update_writes_the_committed_results_and_a_rerun_finds_them_unchanged() -> None:
    assert lab("run", "--update").exit_code == 0
    assert json.loads(Path("committed/toy.json").read_text())["seeds"] == [0, 1, 2]
    result = lab("run", "--fresh")
    assert result.stdout.count("unchanged against the committed result") == 2


def test_what_no_longer_reproduces_is_said_and_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lab("run", "--update")
    monkeypatch.setitem(shift, "value", 100.0)
    monkeypatch.setitem(shift, "verdict", Verdict.REFUTED)
    result = lab("run", "toy", "--fresh")
    assert result.exit_code == 0
    assert "toy: was SUPPORTED, is REFUTED." in result.stdout
    assert "toy: value was 1 [-1.48, 3.48], is 101 [98.5, 103]; the intervals do not meet." in result.stdout
    assert "other" not in result.stdout


def test_a_failed_seed_is_named_and_the_exit_code_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shift, "failing", 1)
    result = lab("run", "toy")
    assert result.exit_code == 1
    assert "toy, seed 1 failed: ArithmeticError: [bold]no luck[/]" in result.stdout
    assert "toy not judged: 1 of 3 seeds failed" in result.stdout
    assert not Path("lab-runs/results/toy.json").exists()
    assert len(list(Path("lab-runs/toy").glob("cpu-*.json"))) == 2


def test_options_choose_seeds_and_places() -> None:
    assert lab("run", "toy", "--seeds", "5", "--work-dir", "w", "--out", "o").exit_code == 0
    assert len(list(Path("w/toy").iterdir())) == 5
    assert json.loads(Path("o/toy.json").read_text())["command"] == "truestep lab run toy --seeds 5 --device cpu"


def test_a_claim_named_twice_runs_once() -> None:
    assert lab("run", "toy", "toy").stdout.count("toy SUPPORTED") == 1


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli, "run_trials", interrupted)
    result = lab("run", "toy")
    assert result.exit_code == 130
    assert result.stderr == (
        "stopped; what is finished is in lab-runs. To go on: truestep lab run toy (same options, no --fresh)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "tyo"), ("no claim is named `tyo`", "Did you mean `toy`?")),
        (("run", "--device", "abacus"), ("--device abacus",)),
        (("run", "--seeds", "1"), ("`--seeds` must be at least 2", "Found 1")),
        (("run", "--workers", "0"), ("`--workers` must be at least 1", "Found 0")),
        (("run", "--update", "--seeds", "2"), ("`--update` needs at least 3 seeds",)),
        (("run", "--work-dir", "file"), ("cannot write to file: File exists", "`--work-dir`")),
        (("run", "--out", "file/below"), ("cannot write to file/below: Not a directory", "`--out`")),
        (("report", "--results", "nowhere"), ("no results in nowhere", "truestep lab run")),
        (("report", "--results", "broken"), ("toy.json holds no result of the lab",)),
    ],
)
def test_what_is_wrong_is_one_line(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    Path("file").touch()
    Path("broken").mkdir()
    Path("broken/toy.json").write_text("{}")
    assert_one_line(lab(*arguments), *words)


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert_one_line(lab("run"), "pip install 'truestep[lab]'")


def test_list_shows_sentence_source_and_committed_verdict() -> None:
    lab("run", "toy", "--update")
    out = lab("list").stdout
    assert "SUPPORTED" in out
    assert "not run" in out  # the other claim
    assert "toy says" in out
    assert "000: nowhere" in out


def test_report_shows_the_verdicts_as_table_markdown_and_page() -> None:
    lab("run", "--out", "o")
    assert "mean 1" in lab("report", "--results", "o").stdout
    assert lab("report", "--results", "o", "--markdown").stdout.splitlines()[1] == "|---|---|---|---|"
    assert lab("report", "--results", "o", "--summary").stdout.splitlines()[1] == "|---|---|"
    page = lab("report", "--results", "o", "--html", "page.html")
    assert page.stdout == "page.html\n"
    assert Path("page.html").read_text().count("<img") == 2


def test_the_committed_verdicts_are_reported_when_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cli, "CLAIMS", CLAIMS)
    out = lab("report", "--markdown").stdout
    assert all(claim.name in out for claim in CLAIMS)

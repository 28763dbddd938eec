"""`truestep compare`: the sentence first, nothing run twice, and one line with exit code 2 for a wrong call."""

import html
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.compare.report import results
from typer.testing import CliRunner, Result

from truestep import cli
from truestep.compare import speed
from truestep.compare._factory import describe

pytest.importorskip("scipy")
pytest.importorskip("plotly")
SOURCE = """
from truestep.compare.problems import quadratic_at

def problem():
    print("a line of the user's")
    import dataclasses
    from truestep.compare.problems import quadratic
    return dataclasses.replace(quadratic(), name="mine", max_steps=16)

def number():
    return 3

def broken():
    raise KeyError("lost")
"""
FAST = ("--problem", "users_problem:problem", "--seeds", "2", "--steps", "8", "--workers", "0")
PAIR = ("sgd:lr=0.003", "sgd:lr=0.006")


class Driver:
    """Stands for a driver: keeps what it is called with, and gives results typed in by hand, one after the other."""

    def __init__(self, *results: object) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.results = results

    def __call__(self, *args: Any, **options: Any) -> object:
        self.calls.append((args, options))
        return self.results[min(len(self.calls), len(self.results)) - 1]


@pytest.fixture(autouse=True)
def user_s_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "users_problem.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "users_problem", raising=False)
    return tmp_path


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> tuple[Driver, Driver, Driver]:
    """In place of the speed test, the swap test and the ranking."""
    made = Driver(results.speed()), Driver(results.swap()), Driver(results.make_ranking(("sgd", "adam", "lion")))
    for where, driver in zip(("speed.speed_test", "swap.swap_test", "rank.ranking"), made, strict=True):
        monkeypatch.setattr(f"truestep.compare.{where}", driver)
    return made


def compare(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(cli.app, ["compare", *words])


def test_two_optimizers_give_sentence_tables_page_and_a_store_and_nothing_is_run_twice(
    user_s_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = compare(*PAIR, *FAST)
    assert result.exit_code == 0, result.output
    first, *_, last = result.stdout.splitlines()
    assert "a line of the user's" in result.stderr
    assert last == "compare.html"
    assert html.escape(first, quote=False) in (user_s_directory / "compare.html").read_text(encoding="utf-8")
    monkeypatch.setattr(torch.optim.SGD, "step", pytest.fail)
    told = json.loads(compare(*PAIR, *FAST, "--json").stdout)
    assert f"{told['speed'][0]['sentence']}." == first
    assert 1.8 < told["speed"][0]["multiplier"] < 2.2
    assert [(one["norm"], one["scope"]) for one in told["swap"]] == [("l2", "global"), ("relative", "tensor")]


def test_options_reach_the_tests_of_a_pair(drivers: tuple[Driver, Driver, Driver]) -> None:
    speed_test, swap_test, _ = drivers
    options = ("--seeds", "5", "--steps", "7", "--margin", "0.1", "--both")
    assert compare("sgd", "adam", *options).exit_code == 0
    (there, asked), (back, _) = speed_test.calls
    assert [describe(factory) for factory in there[1:]] == ["SGD(lr=0.001)", "Adam(lr=0.001)"]
    assert there[1:] == back[:0:-1]
    assert (asked["seeds"], asked["steps"], asked["margin"]) == (5, 7, 0.1)
    assert [(one["seeds"], one["steps"], one["norm"], one["scope"]) for _, one in swap_test.calls] == [
        (5, 7, "l2", "global"),
        (5, 7, "relative", "tensor"),
    ]


def test_a_pair_without_a_bound_is_tested_the_other_way_round_too(drivers: tuple[Driver, Driver, Driver]) -> None:
    speed_test = drivers[0]
    assert compare("sgd", "adam").exit_code == 0
    assert len(speed_test.calls) == 1
    speed_test.results = (replace(results.speed(), verdict="UNBOUNDED"),)
    assert compare("sgd", "adam").exit_code == 0
    assert len(speed_test.calls) == 3


def test_three_are_ranked_and_tested_against_the_first_where_asked(drivers: tuple[Driver, Driver, Driver]) -> None:
    speed_test, swap_test, ranking = drivers
    told = json.loads(compare("sgd", "adam", "lion:lr=1e-3", "--json").stdout)
    assert (told["speed"], told["swap"]) == ([], [])
    assert told["ranking"]["names"] == ["sgd", "adam", "lion"]
    ((_, factories), asked) = ranking.calls[0]
    assert list(factories) == ["sgd", "adam", "lion:lr=1e-3"]
    assert asked["norms"] == (("l2", "global"), ("relative", "tensor"))
    assert compare("sgd", "adam", "lion", "--speed").exit_code == 0
    pairs = [tuple(describe(factory) for factory in args[1:]) for args, _ in speed_test.calls]
    assert pairs == [("SGD(lr=0.001)", "Adam(lr=0.001)"), ("SGD(lr=0.001)", "Lion(lr=0.0001)")]
    assert swap_test.calls == []


def test_json_writes_a_page_only_where_asked(user_s_directory: Path, drivers: tuple[Driver, Driver, Driver]) -> None:
    compare("sgd", "adam", "--json")
    assert not list(user_s_directory.glob("*.html"))
    told = compare("sgd", "adam", "--json", "--out", "new/page.html")
    assert json.loads(told.stdout)["speed"][0]["verdict"] == "SPED-UP"
    assert (user_s_directory / "new" / "page.html").is_file()


def test_the_list_shows_every_optimizer_and_problem() -> None:
    told = compare("--list")
    assert told.exit_code == 0
    for words in (
        "adabelief",
        "AdaBelief" and "0.0001",
        "digits-mlp",
        "An MLP 64-32-10 with ReLU on the digits",
        "600",
    ):
        assert words in told.stdout
    assert "see `" not in told.stdout


WRONG = {
    (): "name two optimizers or more",
    ("adam",): "name two optimizers or more",
    ("adam", "adm"): "no optimizer is named `adm`; is it `adam`?",
    ("adam", "lbfgs"): "`lbfgs` cannot be compared",
    ("sgd", "adam", "sgd"): "an order needs different optimizers, found sgd, adam, sgd",
    ("adam", "sgd", "--problem", "digits"): "no problem is named `digits`; is it `digits-mlp`?",
    ("adam", "sgd", "--problem", "users_problem:nothing"): "has no function `nothing`",
    ("adam", "sgd", "--problem", "users_problem:number"): "must return a truestep.compare.Problem, found int",
    ("adam", "sgd", "--problem", "users_problem:broken"): "users_problem:broken raised KeyError: 'lost'",
    ("adam", "sgd", *FAST, "--seeds", "1"): "`seeds` must be at least 2",
    ("adam", "sgd", *FAST, "--store", "users_problem.py"): "users_problem.py",
    ("adam", "sgd", "--steps", "0"): "`--steps` must be at least 1, found 0",
    ("adam", "sgd", "--out", "users_problem.py/page.html"): "cannot be written to users_problem.py/page.html: ",
    ("adam", "torch.optim:LBFGS"): "`torch.optim:LBFGS` cannot be compared",
    ("adam", "sgd", *FAST, "--workers", "-1"): "`workers` must be at least 0",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_cannot_be_compared_is_one_line_and_exit_code_2(words: tuple[str, ...], unchecked: None) -> None:
    result = compare(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    line = result.stderr.splitlines()[-1]
    assert line.startswith("truestep: ")
    assert WRONG[words] in line
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("missing", ["plotly.offline", "jinja2"])
def test_a_missing_library_is_told_before_anything_is_run_and_json_needs_none(
    missing: str, drivers: tuple[Driver, Driver, Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    result = compare("sgd", "adam")
    assert (result.exit_code, drivers[0].calls) == (2, [])
    assert "pip install 'truestep[report]'" in result.stderr
    assert compare("sgd", "adam", "--json").exit_code == 0


def test_a_stop_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(speed, "speed_test", stop)
    result = compare(*PAIR, *FAST, "--store", "kept.db")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "truestep: stopped; what is finished is in kept.db: go on with the same command"
    )


def test_failed_runs_are_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("3 of 9 trials failed, the others are kept")

    monkeypatch.setattr(speed, "speed_test", fail)
    result = compare(*PAIR, *FAST)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "truestep: 3 of 9 trials failed, the others are kept"


def test_the_help_teaches_with_calls_and_a_problem_of_one_s_own() -> None:
    told = compare("--help").stdout
    for words in (
        "truestep compare adam adabelief",
        "truestep compare sgd momentum adam adabelief lion --speed",
        "adam:lr=3e-4",
        "def problem():",
        "--problem mine:problem",
        "Ctrl-C",
        "Exit code 0",
    ):
        assert words in told

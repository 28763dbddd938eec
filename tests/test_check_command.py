"""`truestep check`: exit code 0 for a loop that is right, 1 for one that is not, 2 and one line for a wrong call."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from truestep import cli

SOURCE = """
import torch
from torch import nn

def loss_fn(model, batch):
    return model(batch).square().mean()

def added(model, micro_batches):
    print("a line of the user's")
    for batch in micro_batches:
        loss_fn(model, batch).backward()

def right():
    return nn.Linear(3, 1), loss_fn, torch.randn(4, 8, 3)

def wrong():
    return dict(model=nn.Linear(3, 1), loss_fn=loss_fn, micro_batches=torch.randn(4, 8, 3), backward=added)

def nan():
    return nn.Linear(3, 1), loss_fn, torch.full((2, 8, 3), float("nan"))

def misfit():
    return nn.Linear(4, 1), loss_fn, torch.randn(4, 8, 3)

def ragged():
    return nn.Linear(3, 1), loss_fn, [torch.randn(8, 2, 3), torch.randn(8, 3, 3)]

def short():
    return nn.Linear(3, 1), loss_fn

def number():
    return 3

def unknown():
    return dict(model=nn.Linear(3, 1), loss_fn=loss_fn, micro_batches=[], optimizer=None)

def lacking():
    return dict(model=nn.Linear(3, 1))

def stepping():
    def loop(model, micro_batches):
        added(model, micro_batches)
        torch.optim.SGD(model.parameters(), lr=1.0).step()
    return nn.Linear(3, 1), loss_fn, torch.randn(4, 8, 3), loop

def untargeted():
    def weighted(model, batch):
        losses = model(batch).square()
        return losses, torch.zeros_like(losses)
    return nn.Linear(3, 1), weighted, torch.randn(4, 8, 3)

def noise():
    def loop(model, micro_batches):
        for batch in micro_batches:
            loss_fn(model, torch.randn(8, 3) * 9).backward()
    return nn.Linear(3, 1), loss_fn, torch.randn(4, 8, 3), loop

def fixed():
    def loop(model, micro_batches):
        for i in range(4):
            loss_fn(model, micro_batches[i]).backward()
    return nn.Linear(3, 1), loss_fn, torch.randn(4, 8, 3), loop
"""


@pytest.fixture(autouse=True)
def _user_s_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_window.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "users_window", raising=False)


def check(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(cli.app, ["check", *words])


def test_a_right_loop_is_exit_code_0() -> None:
    result = check("users_window:right")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "right the accumulated gradient is that of the union batch" in result.stdout
    assert "to do" not in result.stdout


def test_a_wrong_scale_is_exit_code_1_with_figures_cause_and_remedy() -> None:
    result = check("users_window:wrong")
    assert result.exit_code == 1
    rows = [line.split() for line in result.stdout.splitlines() if "1.000000" in line]
    assert [row[5] if row[1] == "window" else row[6] for row in rows] == ["4.0000", "2.0000"]
    assert "wrong missing division: 4 micro-batches" in result.stdout
    assert "to do divide each loss by 4" in result.stdout


def test_json_is_one_object_whatever_the_user_s_code_prints() -> None:
    result = check("users_window:wrong", "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    assert "a line of the user's" in result.stderr
    assert found["ratio"] == pytest.approx(4.0, abs=1e-3)
    assert (found["ok"], found["micro_batches"], found["short"]["micro_batches"]) == (False, 4, 2)
    assert found["short"]["ratio"] == pytest.approx(2.0, abs=1e-3)
    assert set(found) == {
        *("ok", "judged", "micro_batches", "ratio", "factor", "cosine", "relative_error"),
        *("floor", "tolerance", "cause", "remedy", "short"),
    }


def test_what_is_no_number_is_null_and_never_right() -> None:
    result = check("users_window:nan", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert (found["ok"], found["judged"], found["ratio"]) == (False, True, None)
    assert found["cause"].startswith("not finite")


@pytest.mark.parametrize(("name", "cause"), [("untargeted", "nothing to compare"), ("noise", "the loop itself varies")])
def test_what_cannot_be_judged_is_exit_code_2_and_not_called_wrong(name: str, cause: str) -> None:
    result = check(f"users_window:{name}")
    assert result.exit_code == 2
    assert f"not judged {cause}" in result.stdout
    assert "wrong" not in result.stdout
    result = check(f"users_window:{name}", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"], found["judged"]) == (2, False, False)


WRONG = {
    "users_window": ["must be module:function"],
    "users_nothing:right": ["there is no module `users_nothing`"],
    "users_window:nothing": ["has no function `nothing`"],
    "users_window:misfit": ["users_window:misfit raised RuntimeError", "at users_window.py:6"],
    "users_window:ragged": ["gave what cannot be used: `batch` cannot be joined"],
    "users_window:short": ["a dict or a tuple of model, loss_fn, micro_batches", "found a tuple of 2"],
    "users_window:number": ["found int"],
    "users_window:unknown": ["has optimizer, which is no argument"],
    "users_window:lacking": ["lacks loss_fn, micro_batches"],
    "users_window:stepping": ["must end before `optimizer.step()`"],
    "users_window:fixed": ["raised IndexError", "users_window.py", "on the first 2 micro-batches"],
}


@pytest.mark.parametrize("target", WRONG)
def test_a_check_that_cannot_be_made_is_one_line_and_exit_code_2(target: str) -> None:
    result = check(target)
    assert (result.exit_code, result.stdout) == (2, "")
    line = result.stderr.splitlines()[-1]
    assert line.startswith("truestep: ")
    assert all(words in line for words in WRONG[target]), line
    assert "Traceback" not in result.stderr


def test_the_help_teaches_with_a_function_and_its_call() -> None:
    told = check("--help").stdout
    for words in (
        "def window():",
        "micro_batches=",
        "backward=",
        "truestep check window:window",
        "Exit code 0",
        "nothing can be judged",
        "BatchNorm",
    ):
        assert words in told

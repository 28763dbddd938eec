"""`truestep inspect`: the map of a model, in words and as JSON; 2 and one line for a wrong call."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from truestep import cli

SOURCE = """
import torch
from torch import nn

def loss_fn(model, batch):
    return model(batch).logsumexp(1).mean()

def parts():
    print("a line of the user's")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    return dict(model=net, batches=torch.randn(4, 16, 3), loss_fn=loss_fn)

def whole():
    given = parts()
    decayed, free = given["model"][0], given["model"][1:]
    groups = [{"params": decayed.parameters()}, {"params": free.parameters(), "weight_decay": 0.0}]
    return given | dict(optimizer=torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1), steps=2000)

def steps_alone():
    return parts() | dict(steps=10)

def lacking():
    return dict(model=nn.Linear(3, 1))

def unknown():
    return parts() | dict(optimiser=None)

def number():
    return 3

def frozen():
    given = parts()
    given["model"].requires_grad_(False)
    return given

def undecayed():
    given = parts()
    return given | dict(optimizer=torch.optim.SGD(given["model"].parameters(), lr=0.1), steps=10)
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "look_at.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delitem(sys.modules, "look_at", raising=False)


def inspect(function: str, *options: str) -> Result:
    return CliRunner().invoke(cli.app, ["inspect", f"look_at:{function}", *options])


def test_it_says_what_decay_does_to_each_block_and_how_long_it_takes() -> None:
    result = inspect("whole")
    assert result.exit_code == 0
    rows = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if line.count("│") == 5}
    assert "unit" in rows["0.weight"]
    assert "a schedule" in rows["0.weight"]
    assert "no effect" in rows["0.bias"]
    assert "joint" in rows["3.weight"]
    assert "none is applied" in rows["3.weight"]
    assert "Norm time: 5,000 steps, 2.5 times your run of 2,000, longer than your run" in result.stdout
    assert "grows without end" in result.stdout  # the group without decay
    assert "a line of the user's" not in result.stdout


def test_as_json_it_holds_the_same() -> None:
    found = json.loads(inspect("whole", "--json").stdout)
    assert found["alone"] == {"0.weight": "unit"}
    assert found["labels"]["3.bias"] == "sensitive"
    assert {"1.weight": 1, "1.bias": 1, "3.weight": -1} in found["joint"]
    assert [scale["norm"] for scale in found["time_scales"]] == [pytest.approx(5000, rel=1e-3), None]


def test_without_an_optimizer_it_shows_the_map_alone() -> None:
    result = inspect("parts")
    assert result.exit_code == 0
    assert "1 tensors scale invariant alone" in result.stdout
    assert "Return `optimizer` and `steps`" in result.stdout


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("steps_alone", "`steps` without `optimizer`"),
        ("lacking", "lacks batches, loss_fn"),
        ("unknown", "has optimiser, which is no argument"),
        ("number", "must return a dict"),
        ("frozen", "no parameter that requires a gradient"),
        ("undecayed", "grows without end"),
        ("missing", "has no function"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_two(function: str, words: str, unchecked: None) -> None:
    result = inspect(function)
    assert result.exit_code == 2
    assert words in result.stderr.splitlines()[-1]

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

def elsewhere():
    return parts() | dict(optimizer=torch.optim.SGD(parts()["model"].parameters(), lr=0.1), steps=10)

def no_optimizer():
    return parts() | dict(optimizer=[3])

def no_steps():
    return whole() | dict(steps=0)

def alone(build, steps=2000, wrap=lambda net: net):
    # the optimizer holds the first layer and the last; BatchNorm is in none
    given = parts()
    net = given["model"]
    optimizer = build([*net[0].parameters(), *net[3].parameters()])
    return given | dict(model=wrap(net), optimizer=optimizer, steps=steps)

def wrapped():
    return alone(torch.optim.AdamW, wrap=nn.DataParallel)

def compiled():
    given = alone(torch.optim.AdamW, wrap=lambda net: torch.compile(net, backend="eager"))
    return given | dict(loss_fn=lambda model, batch: loss_fn(model._orig_mod, batch))  # compiling takes seconds

def undecayed():
    return alone(lambda p: torch.optim.SGD(p, lr=0.1))

def rmsprop():
    return alone(torch.optim.RMSprop)

def amsgrad():
    return alone(lambda p: torch.optim.AdamW(p, amsgrad=True))

def too_much():
    return alone(lambda p: torch.optim.SGD(p, lr=2.0, weight_decay=0.6))

def stopped():
    return alone(lambda p: torch.optim.AdamW(p, lr=0.0))

def unsaid():
    return alone(torch.optim.AdamW, steps=None)

def warm_up():
    given = alone(lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1))
    torch.optim.lr_scheduler.LambdaLR(given["optimizer"], lambda t: t / 100)
    return given

def warmer():
    given = alone(lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1))
    torch.optim.lr_scheduler.LambdaLR(given["optimizer"], lambda t: (t + 1) / 100)
    return given

class Lion(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, dict(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1))

def lion():
    return alone(Lion)

def adam():
    given = alone(lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=0.1))
    return given | dict(batches=iter(given["batches"]))

def pair():
    given = parts()
    net = given["model"]
    build = lambda layer: torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.1)
    return given | dict(optimizer=(build(net[0]), build(net[3])), steps=2000)

def by_name():
    given = pair()
    return given | dict(optimizer=dict(zip(("first", "last"), given["optimizer"])))

def silent():
    given = alone(lambda p: torch.optim.Adam(p, weight_decay=0.1))
    nn.init.zeros_(given["model"][3].weight)
    return given
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "look_at.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delitem(sys.modules, "look_at", raising=False)


def inspect(function: str, *options: str) -> Result:
    return CliRunner().invoke(cli.app, ["inspect", f"look_at:{function}", *options])


def table(result: Result) -> dict[str, str]:
    """The table's lines by block."""
    return {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if line.count("│") == 5}


def test_it_says_what_decay_does_to_each_block_and_how_long_it_takes() -> None:
    result = inspect("whole")
    assert result.exit_code == 0
    rows = table(result)
    assert "unit" in rows["0.weight"]
    assert "a schedule" in rows["0.weight"]
    assert "no effect" in rows["0.bias"]
    assert "joint" in rows["3.weight"]
    assert "none is applied" in rows["3.weight"]
    assert "Norm time: 5,000 steps, 2.5 times your run of 2,000, longer than your run" in result.stdout
    assert "parameter group 1 (AdamW, lr 0.001, weight decay 0): no times: they hold for blocks found" in result.stdout
    assert "a line of the user's" not in result.stdout


def test_without_the_number_of_steps_it_asks_for_that_alone() -> None:
    assert "Return `steps` too" in inspect("unsaid").stdout


def test_as_json_it_holds_the_same() -> None:
    found = json.loads(inspect("whole", "--json").stdout)
    assert found["alone"] == {"0.weight": "unit"}
    assert found["labels"]["3.bias"] == "sensitive"
    assert {"1.weight": 1, "1.bias": 1, "3.weight": -1} in found["joint"]
    assert [scale["norm"] for scale in found["time_scales"]] == [pytest.approx(5000, rel=1e-3), None]


def test_as_json_each_block_has_its_decay_and_what_it_does() -> None:
    found = json.loads(inspect("undecayed", "--json").stdout)["blocks"]
    assert found["0.weight"] == {"scale": "unit", "weight_decay": 0.0, "role": "none is applied"}
    assert found["1.weight"] == {"scale": "joint", "weight_decay": None, "role": "not in the optimizer"}
    found = json.loads(inspect("whole", "--json").stdout)["blocks"]
    assert found["0.weight"]["weight_decay"] == 0.1
    assert "a schedule" in found["0.weight"]["role"]
    assert json.loads(inspect("parts", "--json").stdout)["blocks"]["3.bias"] == {
        "scale": "sensitive",
        "weight_decay": None,
        "role": "a regularizer",
    }


@pytest.mark.parametrize("function", ["wrapped", "compiled"])
def test_a_wrapped_model_is_that_model(function: str) -> None:
    rows = table(inspect(function))
    assert "0.01" in rows["0.weight"]
    assert "a schedule" in rows["0.weight"]
    assert "not in the optimizer" in rows["1.weight"]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("undecayed", "Intrinsic lr: 0, no weight decay: the norm of scale-invariant weights grows without end"),
        ("rmsprop", "no times: none are known for RMSprop, only for SGD, SGDW, Adam, AdamW, Lion"),
        ("amsgrad", "no times: none are known with amsgrad"),
        ("too_much", "no times: lr times weight decay is 1.2"),
        ("stopped", "no times: its lr is 0, at which nothing moves; return the optimizer with the lr of your run"),
        ("warm_up", "Note: its lr is 0 now, as where a warm-up begins: the times are for 0.001"),
        ("warm_up", "Norm time: 5,000 steps"),
        ("warmer", "Note: the times are for its lr of now, 1e-05, which a schedule moves; it is set to 0.001."),
        ("warmer", "Norm time: 500,000 steps"),
        ("lion", "Approximate: Lion"),
        ("silent", "no times: under Adam with coupled decay they depend on the gradient, and its blocks have none"),
    ],
)
def test_the_map_is_shown_whatever_the_optimizer(function: str, words: str) -> None:
    result = inspect(function)
    assert result.exit_code == 0
    assert "0.weight" in table(result)
    assert words in result.stdout
    assert "`Rule`" not in result.stdout
    assert json.loads(inspect(function, "--json").stdout)["labels"]["0.weight"] == "unit"


@pytest.mark.parametrize(
    ("function", "names"), [("pair", ("optimizer 0", "optimizer 1")), ("by_name", ("first", "last"))]
)
def test_several_optimizers_are_shown_one_by_one(function: str, names: tuple[str, str]) -> None:
    result = inspect(function)
    assert f"{names[0]}, parameter group 0 (AdamW, lr 0.001, weight decay 0.1): for its 1 block" in result.stdout
    none = "no times: they hold for blocks found invariant alone, and this group has none (1 of its blocks is joint"
    assert f"{names[1]}, parameter group 0 (AdamW, lr 0.001, weight decay 0.1): {none}" in result.stdout
    rows = table(result)
    assert "0.1" in rows["3.weight"]
    assert "not in the optimizer" in rows["1.weight"]


def test_adam_with_coupled_decay_is_measured_on_the_batches() -> None:
    result = inspect("adam")
    assert result.exit_code == 0
    assert "found invariant alone: 0.weight" in result.stdout
    assert "measured on your batches" in result.stdout
    assert "not known" not in result.stdout
    (scale,) = json.loads(inspect("adam", "--json").stdout)["time_scales"]
    assert scale["norm"] == pytest.approx(scale["direction"] / 3, rel=1e-9)
    assert scale["blocks"]["0.weight"]["norm"] == scale["norm"]


def test_a_residual_that_was_not_measured_is_null() -> None:
    result = inspect("silent", "--json")
    found = json.loads(result.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert found["residuals"] == {"0.weight": None}


def test_the_help_explains_the_words_of_the_map() -> None:
    shown = CliRunner().invoke(cli.app, ["inspect", "--help"]).stdout
    for word in ("unit", "group", "tensor", "joint", "no effect", "sensitive", "list, tuple or dict", "approximate"):
        assert word in shown


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
        ("elsewhere", "`optimizer` holds none of the model's parameters"),
        ("no_optimizer", "`optimizer` must be a torch optimizer, or a list, tuple or dict of them, found int"),
        ("no_steps", "must give in `steps` the positive number of steps of the run, found 0"),
        ("missing", "has no function"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_two(function: str, words: str, unchecked: None) -> None:
    result = inspect(function)
    assert result.exit_code == 2
    assert words in result.stderr.splitlines()[-1]

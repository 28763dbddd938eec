"""`truestep transfer`: a table, warnings, JSON, a probe of the user's own training, one line for mistakes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from truestep import cli
from truestep.recipe import Recipe, transfer

ADAMW = ("--optimizer", "adamw", "--lr", "3e-4", "--batch-size", "32", "--weight-decay", ".1", "--steps", "10000")
PROBLEM = """
import torch

def problem():
    print("loading")
    data = torch.randn(128, 3, generator=torch.Generator().manual_seed(0))
    return {
        "model": torch.nn.Linear(3, 1),
        "batches": lambda size: data[torch.randperm(128)].split(size),
        "loss_fn": lambda model, batch: (model(batch) - 1).square().mean(),
    }

def broken():
    return {"model": torch.nn.Linear(3, 1)}

def nothing():
    return None
"""


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(cli.app, ["transfer", *arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a user's module, of a name that no other test imports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "transfer_problem.py").write_text(PROBLEM)
    return tmp_path


def test_the_table_has_every_number_with_its_kind_and_the_warnings_follow() -> None:
    result = run(*ADAMW, "--to", "256", "--betas", ".9", ".99")
    assert result.exit_code == 0, result.output
    rows = {line.split("│")[1].strip(): line.split("│")[2:5] for line in result.stdout.splitlines() if "│" in line}
    cells = {name: [cell.strip() for cell in row] for name, row in rows.items() if name}
    assert cells == {
        "items per step": ["32", "256", "exact"],
        "lr": ["0.0003", "0.0008485", "limit law"],
        "betas": ["0.9 0.99", "0.2 0.92", "limit law"],
        "eps": ["1e-08", "3.536e-09", "limit law"],
        "weight_decay": ["0.1", "0.2828", "limit law"],
        "steps": ["10000", "1250", "exact"],
    }
    assert "warning lr: on digits" in result.stdout
    assert "warning betas: beta1 = 0.2" in result.stdout


def test_accumulation_and_ranks_have_their_options() -> None:
    result = run("--optimizer", "sgd", "--lr", ".1", "--batch-size", "32", "--world-size", "8",
                 "--to-world-size", "2", "--to-gradient-accumulation", "4", "--json")  # fmt: skip
    found = json.loads(result.stdout)
    assert (found["items_per_step"], found["recipe"]["lr"], found["recipe"]["world_size"]) == (256, 0.1, 2)
    assert {note["kind"] for note in found["notes"]} == {"exact"}


def test_json_is_one_object_with_the_transfer_that_the_library_makes() -> None:
    found = json.loads(run(*ADAMW, "--to", "256", "--rule", "sqrt", "--noise-scale", "100", "--json").stdout)
    expected = transfer(Recipe("adamw", 3e-4, 32, weight_decay=0.1, steps=10_000), 256, rule="sqrt", noise_scale=100)
    assert found["recipe"]["lr"] == expected.recipe.lr
    assert [note["new"] for note in found["notes"] if note["name"] != "betas"] == [
        note.new for note in expected.notes if note.name != "betas"
    ]
    assert [f"{note['name']}: {note['warning']}" for note in found["notes"] if note["warning"]] == expected.warnings
    assert "above the noise scale 100" in expected.warnings[0]
    assert found["probe"] is None


@pytest.mark.usefixtures("here")
def test_a_probe_runs_the_user_s_training_and_prints_intervals() -> None:
    sgd = ("--optimizer", "sgd", "--lr", ".001", "--batch-size", "8", "--to", "32", "--probe")
    result = run(*sgd, "transfer_problem:problem", "--probe-steps", "8")
    assert result.exit_code == 0, result.output
    assert "all weights" in result.stdout
    assert "over every 32 items the new recipe moves the weights" in result.stdout
    assert "loading" not in result.stdout
    found = json.loads(run(*sgd, "transfer_problem:problem", "--probe-steps", "8", "--json").stdout)["probe"]
    assert found["ratio"]["low"] <= found["ratio"]["value"] <= found["ratio"]["high"]
    assert found["ratio"]["value"] == pytest.approx(1, abs=0.1)
    assert set(found["blocks"]) == {"weight", "bias"}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--optimizer", "adamx", "--to", "64"), ("`optimizer` must be one of", "'adamx'")),
        (("--lr", "-1", "--to", "64"), ("`lr` must be positive",)),
        (("--to", "0"), ("`batch_size` must be a whole number",)),
        (("--to", "512"), ("`betas[0]` = 0.9", "sqrt rule")),
        (("--momentum", ".9", "--to", "64"), ("`momentum` is not a setting of adamw",)),
        (("--to", "64", "--probe", "transfer_problem"), ("must be module:function",)),
        (("--to", "64", "--probe", "transfer_problem:broken"), ("transfer_problem:broken", "`batches` is missing")),
        (
            ("--to", "64", "--probe", "transfer_problem:nothing"),
            ("must return a dict with model, batches and loss_fn", "NoneType"),
        ),
        (("--to", "64", "--probe", "transfer_problem:problem", "--probe-steps", "3"), ("`steps` must be at least 8",)),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(run(*ADAMW, *arguments), words)


def assert_one_line(result: Result, words: tuple[str, ...]) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("truestep: ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize("more", [(), ("--json",), ("--gradient-accumulation", "4"), ("--probe", "absent:problem")])
def test_a_transfer_to_nothing_is_a_mistake(more: tuple[str, ...]) -> None:
    assert_one_line(run(*ADAMW, *more), ("--to, --to-gradient-accumulation, --to-world-size", "nothing changes"))


@pytest.mark.parametrize("option", ["--to", "--to-gradient-accumulation", "--to-world-size"])
def test_each_of_the_new_numbers_is_enough(option: str) -> None:
    assert run(*ADAMW, option, "2").exit_code == 0


@pytest.mark.parametrize("name", ["lion", "SignSGD"])
def test_a_probe_says_which_optimizers_it_can_run(name: str) -> None:
    result = run("--optimizer", name, "--lr", ".1", "--batch-size", "8", "--to", "32", "--probe", "absent:problem")
    assert_one_line(result, ("--probe runs", "sgd, adam, adamw,", f"found {name.lower()}", "truestep.recipe.probe"))


@pytest.mark.parametrize(("option", "names"), [("--rule", "linear sqrt adam"), ("--reduction", "mean sum")])
def test_a_name_that_is_no_choice_is_answered_with_those_there_are(option: str, names: str) -> None:
    result = run(*ADAMW, option, "cubic")
    assert result.exit_code == 2
    assert all(word in result.stderr for word in ("cubic", option, *names.split()))

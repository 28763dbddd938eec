"""What a run says about itself, and names that do not depend on what wraps the model."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from truestep import __version__
from truestep.core._names import named_parameters
from truestep.monitor._facts import kinds, run_facts, settings

NAMES = ["conv.weight", "norm.weight", "norm.bias", "fc.weight", "fc.bias"]
KINDS = ["Conv2d.weight", "BatchNorm2d.weight", "BatchNorm2d.bias", "Linear.weight", "Linear.bias"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Linear(2, 1)


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def sharded(model: nn.Module) -> nn.Module:
    fully_shard(model.fc)  # type: ignore[arg-type]
    return fully_shard(model)


def checkpointed(model: nn.Module) -> nn.Module:
    model.fc = checkpoint_wrapper(model.fc)  # type: ignore[arg-type]
    return model


WRAPPERS = {
    "bare": (),
    "compiled": (compiled,),
    "DDP": (DistributedDataParallel,),
    "DDP of compiled": (compiled, DistributedDataParallel),
    "compiled DDP": (DistributedDataParallel, compiled),
    "FSDP2": (sharded,),
    "compiled FSDP2": (sharded, compiled),
    "checkpointing": (checkpointed,),
    "DataParallel": (nn.DataParallel,),
}


@pytest.mark.parametrize("wrappers", WRAPPERS.values(), ids=WRAPPERS)
def test_names_and_kinds_are_those_of_the_bare_model(wrappers: tuple[type], one_rank: None) -> None:
    model: nn.Module = Net()
    for wrapper in wrappers:
        model = wrapper(model)
    assert list(named_parameters(model)) == NAMES
    assert kinds(model) == dict(zip(NAMES, KINDS, strict=True))
    assert {id(p) for p in named_parameters(model).values()} == {id(p) for p in model.parameters()}


def test_a_tied_weight_has_its_first_name() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(3, 2), "head": nn.Linear(2, 3, bias=False)})
    model["head"].weight = model["embed"].weight
    assert list(named_parameters(model)) == ["embed.weight"]
    assert kinds(model)["embed.weight"] == "Embedding.weight"


def test_the_model_s_own_parameter_has_its_class() -> None:
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loose = nn.Parameter(torch.ones(()))

    assert kinds(Gain()) == {"loose": "Gain.loose"}


def test_settings_are_those_of_every_group_without_its_parameters() -> None:
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([{"params": [a]}, {"params": [b], "weight_decay": 0.0}], lr=torch.tensor(0.5))
    optimizer.param_groups[0]["clip"] = min
    first, second = json.loads(settings(optimizer))
    assert first["lr"] == second["lr"] == 0.5
    assert (first["weight_decay"], second["weight_decay"]) == (1e-2, 0.0)
    assert first["betas"] == [0.9, 0.999]
    assert first["clip"] == str(min)
    assert "params" not in first


def test_a_run_tells_versions_command_seed_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--name", 'a "b" c'])
    torch.manual_seed(1234)
    facts = run_facts(2, "cuda")
    assert facts["truestep"] == __version__
    assert facts["torch"] == torch.__version__
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(facts["command"]) == ["train.py", "--name", 'a "b" c']
    assert (facts["seed"], facts["world_size"], facts["device"], facts["status"]) == ("1234", "2", "cuda", "running")
    assert float(facts["created"]) > 1.7e9
    assert "cwd" not in facts


def test_every_run_has_an_id_of_its_own_and_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    ids = {run_facts(1, "cpu")["id"] for _ in range(3)}
    assert len(ids) == 3
    assert {len(found) for found in ids} == {32}
    assert torch.equal(torch.get_rng_state(), before)


def git(*words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", *identity, *words], capture_output=True, text=True, check=True).stdout.strip()


def test_the_git_state_is_the_commit_and_whether_files_differ_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert run_facts(1, "cpu")["git"] == ""
    git("init")
    (tmp_path / "train.py").write_text("lr = 0.1\n")
    git("add", "train.py")
    git("commit", "-m", "first")
    (tmp_path / "notes.txt").write_text("not followed by git\n")
    assert json.loads(run_facts(1, "cpu")["git"]) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "train.py").write_text("lr = 0.2\n")
    assert json.loads(run_facts(1, "cpu")["git"])["dirty"] is True


def test_without_git_a_run_has_no_git_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert run_facts(1, "cpu")["git"] == ""

"""A compiled step is recorded as the plain one is: same steps, same weights, no recompilation from step to step."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from tests.core.beside import Beside, backward, named, small_net
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

pytestmark = [  # the compiler warns of itself, watched or not
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]
NUM_STEPS, SETTLED = 8, 3  # the first steps compile: one without state, one with
RULES: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9),
    "nesterov, foreach": lambda model: SGD(model.parameters(), 0.1, 0.9, nesterov=True, foreach=True),
    "Adam": lambda model: Adam(model.parameters(), lr=0.01, foreach=False),
    "AdamW, foreach": lambda model: AdamW(model.parameters(), lr=0.01, foreach=True),
}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def train(rule: str, every: int, *, compiled: bool = True, watched: bool = True) -> list[Tensor]:
    """The weights after a run whose recorded steps were compared with the test's own vectors."""
    torch.manual_seed(0)
    model = small_net()
    optimizer = RULES[rule](model)
    step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
    run = Beside(named(model), optimizer, due=lambda index: index % every == 0) if watched else None
    for index in range(NUM_STEPS):
        backward(model)
        with torch._dynamo.config.patch(error_on_recompile=index >= SETTLED):
            step() if run is None or index % every else run.assert_step(step)
    assert run is None or [step.index for step in run.steps] == list(range(0, NUM_STEPS, every))
    return list(model.parameters())


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_a_compiled_run_is_recorded_right_and_moves_as_it_would_unwatched(rule: str, every: int) -> None:
    watched, alone = train(rule, every), train(rule, every, watched=False)
    assert all(torch.equal(p, q) for p, q in zip(watched, alone, strict=True))


def test_a_compiled_run_is_the_plain_run_bit_for_bit() -> None:
    compiled, plain = train("SGD", 1), train("SGD", 1, compiled=False)  # Adam compiles to other roundings
    assert all(torch.equal(p, q) for p, q in zip(compiled, plain, strict=True))


def test_watching_adds_no_graph_to_a_compiled_step() -> None:
    graphs: list[Any] = []
    for watched in (False, True):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        train("SGD", 2, watched=watched)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0


def test_a_closure_may_be_handed_to_a_compiled_step() -> None:
    model = small_net()
    run = Beside(named(model), SGD(model.parameters(), lr=0.1))
    step = torch.compile(run.optimizer.step, backend="eager")
    for _ in range(3):
        batch = torch.randn(8, 5)

        def closure(batch: torch.Tensor = batch) -> torch.Tensor:
            model.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            return loss

        at_w = torch.autograd.grad(model(batch).square().mean(), model.parameters())
        run.assert_step(lambda: step(closure), dict(zip(named(model), at_w, strict=True)))


class Decays(SGD):
    """Both this step and its base's carry the hooks."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.mul_(0.9)
        return loss


def test_a_compiled_subclass_that_calls_its_base_s_step_is_recorded_once_and_whole() -> None:
    model = small_net()
    SGD(model.parameters())
    run = Beside(named(model), Decays(model.parameters(), lr=0.1))
    step = torch.compile(run.optimizer.step, backend="eager")
    for _ in range(3):
        backward(model)
        run.assert_step(step)
    assert [step.index for step in run.steps] == [0, 1, 2]


def test_a_compiled_model_is_recorded_under_its_own_names() -> None:
    model = small_net()
    run = Beside(named(model), SGD(model.parameters(), lr=0.1))
    forward = torch.compile(model, backend="eager")
    for _ in range(2):
        model.zero_grad()
        forward(torch.randn(8, 5)).square().mean().backward()
        assert bool((run.assert_step().dd > 0).all())
    assert run.steps[0].names == ("0.weight", "0.bias", "2.weight", "2.bias")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++) on PATH")
def test_a_step_compiled_to_machine_code_is_recorded_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    weight = nn.Parameter(torch.randn(5, 3))
    run = Beside({"weight": weight}, SGD([weight], lr=0.1))
    step = torch.compile(run.optimizer.step, backend="inductor")
    with torch._inductor.config.patch(compile_threads=1):  # no pool of workers for one kernel
        for _ in range(2):
            weight.grad = torch.randn(5, 3)
            assert run.assert_step(step).dd > 0

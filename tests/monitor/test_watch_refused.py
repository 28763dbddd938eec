"""What cannot be watched is refused in one line that says what to do, and nothing is left behind."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.monitor.loops import Loop, hooks
from torch import nn

from truestep import Watch, watch


class Wrapper:
    """Steps another optimizer and takes no hooks."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups


LOOP = Loop()
REFUSED = {
    "no parameters": (lambda: watch(nn.ReLU(), LOOP.optimizer), "`model` (ReLU) has no parameters"),
    "none of its parameters": (
        lambda: watch(nn.Linear(1, 1), LOOP.optimizer),
        "`optimizer` holds none of the model's parameters; pass the optimizer that steps this model",
    ),
    "a wrapper": (
        lambda: watch(LOOP.model, Wrapper(LOOP.optimizer)),  # type: ignore[arg-type]
        "`optimizer` is a Wrapper, a wrapper without step hooks; pass the optimizer inside it: `.optimizer`",
    ),
    "a scheduler": (
        lambda: watch(LOOP.model, torch.optim.lr_scheduler.LambdaLR(LOOP.optimizer, float)),  # type: ignore[arg-type]
        "pass the optimizer inside it: `.optimizer`",
    ),
    "parameters": (lambda: watch(LOOP.model, LOOP.model.parameters()), "found generator"),  # type: ignore[arg-type]
    "a name": (lambda: watch(LOOP.model, "sgd"), "`optimizer` must be a torch.optim.Optimizer"),  # type: ignore[arg-type]
    "no optimizer": (lambda: watch(LOOP.model, []), "`optimizer` is empty"),
    "an unknown unit": (lambda: LOOP.watch(units=("head",)), "`units` names no parameter of the model: ['head']"),
    "no period": (lambda: LOOP.watch(every=0), '`every` must be "auto" or a positive number of steps, found 0'),
    "no budget": (lambda: LOOP.watch(budget=0.0), "`budget` is a share of the wall time and must be in (0, 1]"),
    "no room": (lambda: LOOP.watch(max_bytes=1e3), "`max_bytes` must be at least 262144, found 1000.0"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_watched_is_refused_in_one_line(
    make: Callable[[], Watch], message: str, unchecked: None, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)
    assert hooks(LOOP.optimizer) == 0


def test_where_one_of_two_optimizers_is_refused_the_other_is_left_alone(tmp_path: Path) -> None:
    loop, other = Loop(), torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="holds none of the model's parameters"):
        watch(loop.model, [loop.optimizer, other], tmp_path / "run")
    assert hooks(loop.optimizer) == hooks(other) == 0
    assert not (tmp_path / "run").exists()


def test_a_loss_of_several_numbers_is_refused_by_name() -> None:
    with Loop().watch() as run, pytest.raises(ValueError, match=r"`loss` must be one number, found a tensor of shape"):
        run.log(loss=torch.ones(3))

"""What a problem answers, and that asking changes nothing."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from truestep.compare.problems import Problem, cross_entropy_loss, digits_cnn, digits_mlp


def weighted_loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return model(batch[0])[:, 0], batch[1]


def problem_of(build, loss_fn, probe, **settings) -> Problem:
    return Problem("own", build, partial(iter, ()), loss_fn, probe, **{"target": 0.1, "max_steps": 1, **settings})


def test_the_probe_loss_is_the_weighted_mean_where_the_loss_has_weights() -> None:
    def probe() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([[1.0], [5.0]]), torch.tensor([3.0, 1.0])

    assert problem_of(lambda seed: nn.Identity(), weighted_loss, probe).probe_loss(nn.Identity()) == 2.0


def test_asking_for_the_probe_leaves_modes_statistics_and_gradients_as_they_were() -> None:
    problem = digits_cnn()
    model = problem.build(0)
    model[2].eval()  # one layer frozen by the user
    before = {name: x.clone() for name, x in model.state_dict().items()}
    problem.probe_loss(model)
    problem.outputs(model)
    assert [m.training for m in model.children()] == [True, True, False, *[True] * 6]
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_outputs_are_those_that_the_probe_loss_judges() -> None:
    problem = digits_mlp()
    model = problem.build(0)
    logits = problem.outputs(model)
    judged = cross_entropy_loss(nn.Identity(), (logits, problem.probe()[1]))
    assert judged.item() == pytest.approx(problem.probe_loss(model), rel=1e-6)


@pytest.mark.parametrize("settings", [{"max_steps": 0}, {"target": math.nan}])
def test_a_run_that_could_not_end_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` must be"):
        problem_of(nn.Identity, weighted_loss, tuple, **settings)

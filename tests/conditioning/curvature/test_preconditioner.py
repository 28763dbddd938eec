"""P is what the optimizer's own step divides by: read from steps that it takes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truestep.conditioning.curvature import adam_preconditioner, preconditioner


def trained(steps: int, **settings: Any) -> tuple[Tensor, torch.optim.Optimizer]:
    torch.manual_seed(0)
    w = torch.randn(5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=0.01, **settings)
    for _ in range(steps):
        w.grad = torch.randn(5, dtype=torch.float64) * torch.logspace(-3, 1, 5, dtype=torch.float64)
        adam.step()
    return w, adam


@pytest.mark.parametrize("settings", [{}, {"amsgrad": True}, {"eps": 0.1}, {"betas": (0.5, 0.9)}])
@pytest.mark.parametrize("steps", [1, 7])
def test_the_last_step_was_lr_times_the_mean_gradient_over_it(settings: dict[str, Any], steps: int) -> None:
    before, _ = trained(steps - 1, **settings)
    after, adam = trained(steps, **settings)
    p = preconditioner(adam, {"w": after})["w"]
    expected = before.detach() - 0.01 * adam.state[after]["exp_avg"] / p
    torch.testing.assert_close(after.detach(), expected, rtol=1e-12, atol=0)


def test_the_formula_by_hand() -> None:
    v = torch.tensor([0.19], dtype=torch.float64)  # after two steps of beta2 = 0.9: 1 - 0.81 = 0.19
    found = adam_preconditioner(v, 2, beta1=0.5, beta2=0.9, eps=1.0)
    torch.testing.assert_close(found, torch.tensor([0.75 * 2.0], dtype=torch.float64))


def test_groups_of_other_lr_weigh_by_it_and_what_does_not_move_sees_nothing() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    (a, b), (c, _) = model[0].parameters(), model[1].parameters()
    sgd = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.4}, {"params": [c], "lr": 0.0}], lr=0.1)
    found = preconditioner(sgd, dict(model.named_parameters()))
    values = {name: float(p) for name, p in found.items()}
    assert values == {"0.weight": 1.0, "0.bias": 0.25, "1.weight": torch.inf, "1.bias": torch.inf}


@pytest.mark.usefixtures("unchecked")
def test_unknown_and_fresh_optimizers_are_refused() -> None:
    w = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="SGD, Adam or AdamW, or a dict of what divides the gradient; found Adagrad"):
        preconditioner(torch.optim.Adagrad([w]), {"w": w})
    with pytest.raises(ValueError, match="take a step first"):
        preconditioner(torch.optim.AdamW([w]), {"w": w})

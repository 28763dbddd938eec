"""The ensemble: each of its nets is the lab's MLP trained alone by torch's SGD."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from truestep.lab._digits import digits
from truestep.lab._ensemble import (
    Ensemble,
    as_module,
    column,
    directions,
    draw_batches,
    draw_ensemble,
    forward,
    held_out_logits,
    repeated,
    sgd_step,
)

LRS, DECAYS = [0.5, 0.1, 0.02], [0.0, 0.05, 0.5]


def three(eps: float = 1e-5) -> Ensemble:
    return draw_ensemble(3, (16, 8), torch.Generator().manual_seed(0), eps=eps, dtype=torch.float64)


def test_a_step_is_torchs_sgd_on_each_net_alone() -> None:
    nets, data = three(), digits(dtype=torch.float64)
    models = [as_module(nets, i) for i in range(3)]
    optimizers = [
        torch.optim.SGD(list(model.parameters())[:-1], lr, weight_decay=decay)
        for model, lr, decay in zip(models, LRS, DECAYS, strict=True)
    ]
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        x, y = draw_batches(data, 3, 32, generator)
        losses = sgd_step(nets, x, y, column(LRS, nets), column(DECAYS, nets))
        for i, model in enumerate(models):
            loss = cross_entropy(model(x[i]), y[i])
            model.zero_grad()
            loss.backward()
            optimizers[i].step()
            assert losses[i].item() == pytest.approx(loss.item(), rel=1e-9)
    for i, model in enumerate(models):
        for mine, theirs in zip([*nets.hidden, nets.head], model.parameters(), strict=True):
            torch.testing.assert_close(mine[i].detach().T, theirs.detach(), rtol=1e-9, atol=1e-12)


def test_the_output_layer_is_never_trained() -> None:
    nets, data = three(), digits(dtype=torch.float64)
    head = nets.head.clone()
    x, y = draw_batches(data, 3, 32, torch.Generator())
    sgd_step(nets, x, y, column(1.0, nets), column(0.1, nets))
    assert torch.equal(nets.head, head)


def test_scaling_the_hidden_weights_of_a_net_changes_no_logit_of_it_without_eps() -> None:
    nets, x = three(eps=1e-30), torch.rand(3, 20, 64, dtype=torch.float64)
    scaled = Ensemble([w.detach() * column([1e-3, 1.0, 1e3], nets) for w in nets.hidden], nets.head, nets.eps)
    torch.testing.assert_close(forward(scaled, x), forward(nets, x), rtol=1e-10, atol=1e-10)


def test_a_net_does_not_see_the_others_batches() -> None:
    nets, x = three(), torch.rand(3, 20, 64, dtype=torch.float64)
    other = torch.cat([x[:2], torch.rand(1, 20, 64, dtype=torch.float64)])
    assert torch.equal(forward(nets, x)[:2], forward(nets, other)[:2])


def test_held_out_images_are_normalised_by_the_training_images() -> None:
    nets, data = three(), digits(dtype=torch.float64)
    model = as_module(nets, 2)
    for module in model:
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = None  # the plain mean of what was seen: here of one batch
    model(data.train_x)
    model.eval()
    with torch.no_grad():  # torch keeps the variance with n - 1
        torch.testing.assert_close(held_out_logits(nets, data)[2], model(data.test_x), rtol=1e-2, atol=5e-3)
    few = type(data)(data.train_x, data.train_y, data.test_x[:3], data.test_y[:3])
    torch.testing.assert_close(held_out_logits(nets, few), held_out_logits(nets, data)[:, :3])


def test_copies_stand_one_after_the_other_and_are_trained_apart() -> None:
    nets = repeated(three(), 2)
    assert torch.equal(nets.hidden[0][2], three().hidden[0][1])
    x, y = draw_batches(digits(dtype=torch.float64), 6, 32, torch.Generator())
    sgd_step(nets, x, y, column(1.0, nets), column(0.0, nets))
    assert not torch.equal(nets.hidden[0][2], nets.hidden[0][3])


def test_directions_have_length_one_and_forget_the_scale_of_units() -> None:
    nets = three()
    found = directions(nets)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3, dtype=torch.float64))
    scales = [torch.rand(3, 1, w.shape[2], dtype=torch.float64) + 0.1 for w in nets.hidden]
    other = Ensemble([w.detach() * s for w, s in zip(nets.hidden, scales, strict=True)], nets.head, nets.eps)
    torch.testing.assert_close(directions(other), found)

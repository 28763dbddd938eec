"""Many models run as one give what each gives."""

import torch
from tests.compare.training.nets import normalized, probe, problem
from torch import nn

from truestep.compare.problems import seeded
from truestep.compare.training._stack import Stack


def test_losses_and_places_are_those_of_the_models_and_nothing_is_changed() -> None:
    own = problem(build=normalized)
    stack = Stack(own, [4, 1, 4])
    before = {name: x.clone() for name, x in (stack.params | stack.buffers).items()}
    losses, _ = stack.at(probe(), paths=True)
    torch.testing.assert_close(losses.tolist(), [own.probe_loss(own.build(seed)) for seed in (4, 1, 4)])
    assert stack.model.training
    assert all(torch.equal(x, before[name]) for name, x in (stack.params | stack.buffers).items())


def test_statistics_move_in_each_replica_by_its_own_batch() -> None:
    own = problem(build=normalized)
    stack, models = Stack(own, [0, 1]), [own.build(seed) for seed in (0, 1)]
    batches = [next(own.batches(order)) for order in (5, 6)]
    stack.losses(tuple(torch.stack(column) for column in zip(*batches, strict=True)), shared=False)
    for row, (model, batch) in enumerate(zip(models, batches, strict=True)):
        model(batch[0])
        for name, expected in model.named_buffers():
            torch.testing.assert_close(stack.buffers[name][row], expected)


def attending(seed: int) -> nn.Module:
    with seeded(seed):
        return Attention()


class Attention(nn.Module):
    """Torch's fast kernel has no rule for many replicas, and one weight is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 5, dtype=torch.float64)
        self.two = self.one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.one(x)[None]
        return self.two(nn.functional.scaled_dot_product_attention(z, z, z)[0])[:, :3]


def test_attention_and_a_weight_used_twice() -> None:
    own = problem(build=attending)
    stack = Stack(own, [0, 1])
    assert [*stack.params] == ["one.weight", "one.bias"]
    expected = [own.probe_loss(own.build(seed)) for seed in (0, 1)]
    torch.testing.assert_close(stack.at(probe(), paths=False)[0].tolist(), expected)

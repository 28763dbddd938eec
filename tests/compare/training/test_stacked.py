"""A stack trains every replica as it would have been trained alone."""

from functools import partial
from typing import Any

import pytest
import torch
from tests.compare.training.nets import ENOUGH, REPLICAS, RULES, SAME_SPEED, data, dropping, normalized, problem
from torch import Tensor, nn
from torch.optim import SGD, Adam, RMSprop

from truestep.compare import Lion
from truestep.compare.problems import Problem, diabetes, quadratic, seeded, squared_loss
from truestep.compare.step_matched._blocks import SCOPES
from truestep.compare.step_matched._factor import NORMS
from truestep.compare.training import STACKABLE, Curves, Grafted, Matched, Replica, train

pytestmark = pytest.mark.usefixtures("unchecked")  # each control would have its hooks' types checked anew
LENGTHS = {"l2": 0.2, "rms": 0.03, "linf": 0.05, "relative": 0.1, "angular": 0.05}


def assert_stack_is_loop(problem: Problem, optimizer: Any, replicas: Any = REPLICAS, **settings: Any) -> Curves:
    stack, loop = (train(problem, optimizer, replicas, points=3, stacked=way, **settings) for way in (True, False))
    assert stack.stacked
    assert not stack.why_not
    assert stack.steps == loop.steps
    torch.testing.assert_close(stack.losses, loop.losses, rtol=1e-10, atol=1e-10)
    if settings.get("paths"):
        torch.testing.assert_close(stack.paths, loop.paths, rtol=1e-5, atol=1e-6)
    return stack


def test_every_rule_is_tried() -> None:
    assert {rule.func for rule in RULES.values()} == {*STACKABLE}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_stacks(name: str) -> None:
    curves = assert_stack_is_loop(problem(), RULES[name], schedule="linear", paths=True)
    assert curves.losses.isfinite().all()
    assert (curves.losses.diff() != 0).all()


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_rules_stack_at_unit_loss_and_one_speed(name: str) -> None:
    assert_stack_is_loop(problem(), RULES[name], SAME_SPEED, unit_loss=True)


@pytest.mark.parametrize("name", RULES)
def test_each_rule_stacks_with_its_steps_matched(name: str) -> None:
    assert_stack_is_loop(problem(), RULES[name], control=Matched(0.3), schedule="linear", steps=3)


@pytest.mark.parametrize("name", RULES)
def test_each_rule_gives_its_lengths_to_another(name: str) -> None:
    control = Grafted(RULES[name], "relative", "tensor")
    assert_stack_is_loop(problem(), partial(RMSprop, lr=0.003), control=control, schedule="linear", steps=3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scope", SCOPES)
def test_each_norm_and_scope_stacks(norm: Any, scope: Any) -> None:
    control = Matched(LENGTHS[norm], norm, scope)
    assert_stack_is_loop(problem(), two_groups, REPLICAS[:2], control=control, schedule="linear", steps=3)


@pytest.mark.parametrize(("norm", "scope"), [*zip(NORMS, (*SCOPES, "unit"), strict=True)])
def test_each_norm_stacks_under_the_lengths_of_another(norm: Any, scope: Any) -> None:
    control = Grafted(partial(Adam, lr=0.01), norm, scope)
    assert_stack_is_loop(problem(), two_groups, REPLICAS[:2], control=control, schedule="linear", steps=3)


def two_groups(params: Any) -> SGD:
    first, *others = params
    return SGD([{"params": [first], "lr": 0.3}, {"params": others}], lr=0.1, momentum=0.9)


def test_groups_keep_their_own_lr() -> None:
    assert_stack_is_loop(problem(), two_groups, schedule="linear")


def test_batch_norms_statistics_are_each_replicas_own() -> None:
    assert_stack_is_loop(problem(build=normalized), RULES["adam"], paths=True)


def test_points_of_one_number_and_a_batch_that_nobody_looks_at() -> None:
    curves = assert_stack_is_loop(quadratic(noise=1.0), RULES["adam"], steps=20, paths=True)
    assert curves.paths is not None
    assert curves.paths.shape == (4, 3, 2)


def scaled_point(seed: int) -> nn.Module:
    return Scalar(float(seed + 1))


class Scalar(nn.Module):
    """A weight without dimensions, and one that nothing is done with."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value, dtype=torch.float64))
        self.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def identity_batches(seed: int) -> Any:
    while True:
        yield torch.full((2, 3), 1.0 + seed, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)


def first_batch() -> Any:
    return next(identity_batches(0))


@pytest.mark.parametrize("control", [None, Matched(0.1, scope="unit"), Grafted(RULES["adam"])])
def test_a_weight_without_dimensions_and_one_without_gradient_are_as_in_the_loop(control: Any) -> None:
    own = problem(build=scaled_point, batches=identity_batches, probe=first_batch, loss_fn=squared_loss)
    curves = assert_stack_is_loop(own, RULES["adamw"], control=control, paths=True)
    assert curves.paths is not None
    assert bool((curves.paths[..., 1:] == 1).all())  # weight decay takes nothing of a weight without gradient


class Turning(nn.Module):
    """Complex weights, which torch's fused kernels refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


def turning(seed: int) -> nn.Module:
    with seeded(seed):
        return Turning()


def modulus_loss(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return (model(x).abs() - y - 1).square().mean()


@pytest.mark.parametrize("control", [None, Matched(0.1)])
def test_complex_weights_stack_and_their_path_has_both_parts(control: Any) -> None:
    own = problem(build=turning, batches=identity_batches, probe=first_batch, loss_fn=modulus_loss)
    curves = assert_stack_is_loop(own, partial(Adam, lr=0.01), control=control, paths=True)
    assert curves.paths is not None
    assert curves.paths.shape == (4, 3, 6)


def weighted_loss(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="none"), y + 1


def test_losses_with_weights_stack() -> None:
    assert_stack_is_loop(problem(loss_fn=weighted_loss), RULES["adam"])


def test_one_order_is_shared_by_all() -> None:
    assert_stack_is_loop(problem(), RULES["lion"], [Replica(i, 7, 1 + i) for i in range(3)])


def test_a_replica_that_diverges_leaves_the_others_alone() -> None:
    replicas = [Replica(0, 0), Replica(1, 1, 1e200), Replica(2, 2)]
    together = train(problem(), RULES["sgd"], replicas, points=4, stacked=True).losses
    without = train(problem(), RULES["sgd"], [replicas[0], replicas[2]], points=4, stacked=False).losses
    torch.testing.assert_close(together[[0, 2]], without, rtol=1e-10, atol=0)
    assert bool((together[1] == torch.inf).all())


def uneven(seed: int) -> Any:
    x, y = data()
    for _ in range(8):
        yield x[: 4 + seed], y[: 4 + seed]


def later_uneven(seed: int) -> Any:
    x, y = data()
    for step in range(8):
        size = 4 + seed * (step > 3)
        yield x[:size], y[:size]


def with_words(seed: int) -> Any:
    while True:
        yield (*data(), f"batch of {seed}")


def first_two(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def read_loss(model: nn.Module, batch: Any) -> Tensor:
    loss = first_two(model, batch)
    return loss if loss.item() > 0 else -loss


def wider(seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(5, 4 + seed), nn.Tanh(), nn.Linear(4 + seed, 3)).double()


class Attribute(nn.Module):
    """Has a tensor that is no buffer: a stack would take the first replica's for all."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.inner, self.factor = nn.Linear(5, 3).double(), torch.tensor(factor, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.factor


def with_attribute(seed: int) -> nn.Module:
    with seeded(seed):
        return Attribute(seed + 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"build": dropping}, "random"),
        ({"build": wider}, "different weights"),
        ({"build": with_attribute}, "another loss"),
        ({"batches": uneven}, "differ in shape"),
        ({"batches": later_uneven}, "differ in shape"),
        ({"batches": with_words, "loss_fn": first_two}, "not made of tensors"),
        ({"loss_fn": read_loss}, "cannot be stacked"),
    ],
)
def test_what_cannot_be_stacked_is_trained_one_by_one_and_the_reason_told(changes: Any, reason: str) -> None:
    own = problem(**changes)
    curves = train(own, RULES["adam"], ENOUGH, points=2)
    assert reason in curves.why_not
    assert not curves.stacked
    assert torch.equal(curves.losses, train(own, RULES["adam"], ENOUGH, points=2, stacked=False).losses)
    with pytest.raises(ValueError, match=f"`stacked` must not be True here: .*{reason}"):
        train(own, RULES["adam"], ENOUGH, points=2, stacked=True)


def test_another_weight_order_in_the_reference_is_told() -> None:
    control = Grafted(turned_round)
    curves = train(problem(), Lion, ENOUGH, steps=2, control=control)
    assert "another order" in curves.why_not


def turned_round(params: Any) -> SGD:
    return SGD(params[::-1], lr=0.1)


def test_lengths_in_the_outputs_are_taken_one_by_one() -> None:
    curves = train(problem(), RULES["sgd"], ENOUGH, steps=3, points=3, control=Matched(0.05, "function"), paths=True)
    assert "outputs" in curves.why_not
    assert curves.paths is not None
    assert curves.paths.shape == (4, 3, 39)  # 39 weights: the path is theirs


def test_data_of_a_table_are_looked_up_at_once() -> None:
    a, b = (train(diabetes(), RULES["adam"], REPLICAS, steps=12, points=3, stacked=way).losses for way in (True, False))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=0)  # float32, over one epoch and a half

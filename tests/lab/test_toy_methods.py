"""Ways to weigh the toy's tasks: the weights each gives at the first step, and the better of two lrs."""

import pytest
import torch

from truestep.lab import toy as lab_toy
from truestep.lab._toy_methods import best, dtp, dwa, equal, fixed, gradnorm, oracle, uncertainty, unit
from truestep.lab.toy import Build, Course, make_toy, train

TOY = make_toy([1.0, 100.0], seed=0)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_toy, "TEST", 2000)


def first(build: Build, kpis: bool = False) -> Course:
    return train(TOY, build, lr=1e-9, steps=1, seed=0, kpis=kpis)


def weights(build: Build, kpis: bool = False) -> list[float]:
    return [weight[0] for weight in first(build, kpis).weights.values()]


def test_weights_that_know_nothing_are_equal() -> None:
    assert weights(equal) == [1.0, 1.0]
    assert weights(dwa) == [1.0, 1.0]  # no epoch yet
    assert weights(uncertainty(0.1)) == [0.5, 0.5]  # exp(-0) / 2
    assert min(weights(dtp(), kpis=True)) > 3  # -log of a KPI near 0


def test_weights_that_are_given_are_kept() -> None:
    assert weights(oracle) == pytest.approx([1.0, 1e-4])
    assert weights(fixed({"f0": 30.0, "f1": 10.0})) == pytest.approx([1.5, 0.5])


def test_the_unit_loss_weighs_by_the_inverse_loss() -> None:
    course = first(unit)
    expected = [1 / loss for loss in course.start.values()]
    assert [w[0] for w in course.weights.values()] == pytest.approx(expected, rel=0.03)  # a batch against the test


def test_gradnorm_s_norms_are_those_at_the_last_layer_or_at_its_output() -> None:
    generator = torch.Generator().manual_seed(1)  # as `train` does for seed 0
    net = lab_toy.Net(TOY.tasks, generator)
    lab_toy.batch(TOY, 2000, generator)
    x, y = lab_toy.batch(TOY, 100, generator)
    z = net.trunk(x)
    loss = torch.nn.functional.mse_loss(net.heads["f0"](z), y["f0"])
    at_weight, at_output = (g.norm().item() for g in torch.autograd.grad(loss, (net.last_layer, z)))
    assert first(gradnorm()).norms["f0"][0] == pytest.approx(at_weight, rel=1e-4)
    assert first(gradnorm(at_weight=False)).norms["f0"][0] == pytest.approx(at_output, rel=1e-4)


@pytest.mark.parametrize("build", [gradnorm(0.0), gradnorm(0.0, at_weight=False)])
def test_gradnorm_sums_to_the_number_of_tasks_and_evens_the_norms(build: Build) -> None:
    course = first(build)
    w, g = (torch.tensor([curve[0] for curve in each.values()]) for each in (course.weights, course.norms))
    assert w.sum().item() == pytest.approx(2.0)
    assert (w * g)[0].item() == pytest.approx((w * g)[1].item(), rel=1e-4)


def test_the_best_is_the_one_with_the_lower_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_toy, "TEST", 30)
    trained = {lr: train(TOY, equal, lr=lr, steps=3, seed=0) for lr in (1e-6, 1e-3)}
    assert best(TOY, equal, lrs=(1e-6, 1e-3), steps=3, seed=0).last == trained[1e-3].last
    assert trained[1e-3].mean < trained[1e-6].mean

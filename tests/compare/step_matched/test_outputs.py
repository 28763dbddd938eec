"""Steps have the wanted length in the outputs, and looking at these leaves no trace."""

from collections.abc import Callable
from functools import partial
from math import asinh, isnan
from typing import Any

import pytest
import torch
from tests.compare.step_matched.nets import built, output_length, outputs, train
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from truestep.compare import problems
from truestep.compare.step_matched._outputs import Outputs
from truestep.compare.step_matched._step_matched import StepMatched


def looked_up(probe: Callable[[], Any], wanted: float, weight: Tensor, after: list[float]) -> tuple[float, float, bool]:
    """From `weight` a step to `after`, of which the factor is asked."""
    before = weight.clone()
    weight.copy_(torch.tensor(after))
    found = Outputs(probe)
    with found.probed([(before, weight)]):
        answer = found.match(wanted, float((weight.new_tensor(after) - before).norm()), float(before.norm()))
    assert weight.tolist() == after
    return answer


def test_the_factor_by_hand() -> None:
    weight = torch.zeros(2, dtype=torch.float64)
    factor, length, matched = looked_up(weight.sinh, 0.5, weight, [4.0, 4.0])
    assert factor == pytest.approx(asinh(0.5) / 4, rel=1e-6)
    assert length == pytest.approx(0.5, rel=1e-6)
    assert matched


def test_all_entries_of_a_pytree_count() -> None:
    weight = torch.zeros(3, dtype=torch.float64)
    factor, _, _ = looked_up(lambda: [weight[:1], {"b": (weight[1:], "no tensor")}], 1.0, weight, [3.0, 0.0, 0.0])
    assert factor == pytest.approx(3**0.5 / 3, rel=1e-7)  # RMS of (1, 0, 0) times 3c


@pytest.mark.parametrize("length", [0.001, 0.1, 1.0])
def test_at_most_eight_forwards_a_step_also_beside_a_reference(length: float) -> None:
    model, optimizer = built(AdamW)
    calls: list[None] = []

    def counted() -> Any:
        calls.append(None)
        return outputs(model)

    matched = StepMatched(optimizer, length, norm="function", probe=counted)
    for seed in range(5):
        calls.clear()
        start = {name: x.detach() for name, x in outputs(model).items()}
        train(model, optimizer, range(seed, seed + 1))
        assert 2 <= len(calls) <= 8
        assert matched.report.took.item() == pytest.approx(output_length(start, model), rel=1e-9)
        if length <= 0.1:
            assert matched.report.took.item() == pytest.approx(length, rel=1e-5)
            assert matched.report.unmatched == {}
    matched.close()
    StepMatched(optimizer, SGD(model.parameters(), lr=0.1), norm="function", probe=counted)
    calls.clear()
    train(model, optimizer, range(1))
    assert 3 <= len(calls) <= 8


def test_what_is_not_reached_is_taken_as_near_as_it_was_found_and_reported() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGD([("w", weight)], lr=1.0)
    matched = StepMatched(optimizer, 2.0, norm="function", probe=weight.tanh)
    weight.grad = -torch.ones_like(weight)
    optimizer.step()
    assert 0.9 < float(weight.detach().tanh()) <= 1.0
    assert matched.report.unmatched["all"] == pytest.approx(float(weight.detach().tanh()), rel=1e-9)
    assert matched.report.kept_steps.tolist() == [1]


def test_a_step_that_changes_no_output_or_nothing_is_left_as_it_is() -> None:
    weight = torch.ones(2)
    factor, length, matched = looked_up(lambda: weight[:1], 0.5, weight, [1.0, 3.0])
    assert isnan(factor)
    assert (length, matched) == (0.0, False)
    assert isnan(looked_up(lambda: weight, 0.5, weight, weight.tolist())[0])


def test_a_length_of_zero_stays_and_one_that_is_none_keeps_the_step() -> None:
    weight = torch.zeros(1)
    assert looked_up(lambda: weight, 0.0, weight, [1.0]) == (0.0, 0.0, True)
    weight.zero_()
    factor, length, matched = looked_up(lambda: weight, -1.0, weight, [4.0])
    assert isnan(factor)
    assert (length, matched) == (4.0, False)


def test_the_digits_of_float32_outputs_are_enough() -> None:
    weight = nn.Parameter(torch.full((3,), 1000.0))
    optimizer = SGD([weight], lr=1.0)
    matched = StepMatched(optimizer, 0.1, norm="function", probe=lambda: weight)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert matched.report.unmatched == {}
    torch.testing.assert_close(weight.data, torch.full((3,), 999.9))


def test_mode_gradients_statistics_and_random_numbers_are_as_they_were() -> None:
    problem = problems.digits_cnn()
    model = problem.build(0)
    optimizer = SGD(model.parameters(), lr=0.1)
    StepMatched(optimizer, 0.05, norm="function", probe=partial(problem.outputs, model))
    problem.loss_fn(model, next(problem.batches(0))).backward()
    buffers = {name: x.clone() for name, x in model.named_buffers()}
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    state = torch.get_rng_state()
    optimizer.step()
    assert buffers
    assert all(torch.equal(buffers[name], x) for name, x in model.named_buffers())
    assert all(torch.equal(x, p.grad) for x, p in zip(gradients, model.parameters(), strict=True) if p.grad is not None)
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_outputs_with_dropout_are_looked_at_through_one_mask() -> None:
    weight = torch.zeros(64, dtype=torch.float64)
    factor, _, matched = looked_up(lambda: nn.functional.dropout(weight), 0.5, weight, [1.0] * 64)
    state = torch.get_rng_state()
    dropped = nn.functional.dropout(torch.ones(64, dtype=torch.float64))
    torch.set_rng_state(state)
    assert matched
    assert factor == pytest.approx(0.5 / float(dropped.square().mean().sqrt()), rel=1e-7)


def test_a_probe_that_fails_leaves_the_step_as_it_was_taken() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SGD([weight], lr=1.0)
    matched = StepMatched(optimizer, 0.5, norm="function", probe=lambda: 1 / 0)
    weight.grad = torch.ones(1)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert weight.tolist() == [-1.0]
    matched.close()
    StepMatched(optimizer, 0.5, norm="function", probe=lambda: torch.ones(2, dtype=torch.long))
    with pytest.raises(ValueError, match="`probe` must give a tensor of floating-point numbers"):
        optimizer.step()


def test_a_probe_that_moves_running_statistics_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    x = torch.randn(8, 3)
    optimizer = SGD(model.parameters(), lr=0.1)
    model(x).square().sum().backward()
    before = [buffer.clone() for buffer in model.buffers()]
    StepMatched(optimizer, 0.1, norm="function", probe=lambda: model(x))
    with pytest.raises(ValueError, match=r"`probe` must leave the run as it is, found a BatchNorm1d in training mode"):
        optimizer.step()
    assert all(map(torch.equal, before, model.buffers()))
    model(x)  # nothing of the check is left


@pytest.mark.parametrize(("scale", "within"), [(1.0, 0.01), (1e4, 0.9)])
def test_outputs_of_few_digits_are_matched_as_far_as_these_go_and_else_reported(scale: float, within: float) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(16, 10), torch.randn(64, 16)
    with torch.no_grad():
        model.weight.mul_(scale)
    optimizer = SGD(model.parameters(), lr=0.01)
    matched = StepMatched(optimizer, 0.1, norm="function", probe=lambda: model(x).bfloat16())
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(64) % 10).backward()
        start = model(x).detach()
        optimizer.step()
        error = abs(float((model(x).detach() - start).square().mean().sqrt()) / 0.1 - 1)
        assert error < within or scale > 1
    assert bool(matched.report.unmatched) is (scale > 1)


def test_decay_out_is_taken_off_besides() -> None:
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = AdamW([weight], lr=0.5, weight_decay=0.1)
    StepMatched(optimizer, 0.3, norm="function", probe=lambda: weight, decay="out")
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert float(weight.detach()) == pytest.approx(2.0 - 0.3 - 0.5 * 0.1 * 2.0, rel=1e-7)

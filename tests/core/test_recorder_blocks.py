"""Which blocks a step lists, through everything that a run does to its parameters."""

import pytest
import torch
from tests.core.beside import Beside, backward, gradients, named, small_net
from torch import nn
from torch.nn import Parameter
from torch.optim import SGD, AdamW, Muon

from truestep.core import Recorder, Step


def take(run: Beside, model: nn.Module) -> Step:
    backward(model)
    run.assert_step()
    return run.steps[-1]


def test_every_group_s_blocks_were_asked_what_their_group_says() -> None:
    model = small_net()
    groups = [
        {"params": [model[0].weight], "lr": 0.5, "weight_decay": 0.25},
        {"params": [model[0].bias, *model[2].parameters()], "lr": 0.125, "momentum": 0.5},
    ]
    run = Beside(named(model), SGD(groups, lr=1.0))
    step = take(run, model)
    assert step.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert step.asked.lr.tolist() == [0.5, 0.125, 0.125, 0.125]
    assert step.asked.weight_decay.tolist() == [0.25, 0.0, 0.0, 0.0]
    assert step.asked.momentum.tolist() == [0.0, 0.5, 0.5, 0.5]
    assert step.asked.beta1.isnan().all()


def test_a_scheduled_lr_is_the_one_of_its_step() -> None:
    model = small_net()
    run = Beside(named(model), SGD(model.parameters(), lr=1.0))
    schedule = torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.5)
    asked = []
    for _ in range(3):
        asked.append(take(run, model).asked.lr[0].item())
        schedule.step()
    assert asked == [1.0, 0.5, 0.25]


def test_a_frozen_parameter_is_not_listed_and_not_copied() -> None:
    model = small_net()
    model[0].weight.requires_grad_(False)
    run = Beside(named(model), SGD(model.parameters(), lr=0.1, weight_decay=0.1))
    assert take(run, model).names == ("0.bias", "2.weight", "2.bias")
    assert set(run.recorder._weights._of) == {"0.bias", "2.weight", "2.bias"}


def test_a_parameter_without_a_gradient_is_listed_with_zeros() -> None:
    model = small_net()
    idle = Parameter(torch.ones(4))
    run = Beside({**named(model), "idle": idle}, AdamW([*model.parameters(), idle], weight_decay=0.1))
    step = take(run, model)
    assert step.names[-1] == "idle"
    assert step.took.columns()[-1].tolist() == [4.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_a_parameter_frozen_with_its_last_gradient_still_moves_and_is_still_listed() -> None:
    model = small_net()
    run = Beside(named(model), SGD(model.parameters(), lr=0.1))
    backward(model)
    model[0].weight.requires_grad_(False)
    expected = run.assert_step()
    assert run.steps[0].names[0] == "0.weight"
    assert expected.dd[0] > 0


def test_a_tied_weight_is_one_block() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5, bias=False))
    model[2].weight = model[0].weight
    every_name = dict(model.named_parameters(remove_duplicate=False))
    assert set(every_name) == {"0.weight", "0.bias", "2.weight"}
    run = Beside(every_name, SGD(model.parameters(), lr=0.1))
    for _ in range(2):
        assert take(run, model).names == ("0.weight", "0.bias")


def test_a_group_added_in_mid_run_is_listed_from_its_first_step_on() -> None:
    model = small_net()
    run = Beside(named(model), SGD(model[2].parameters(), lr=0.1))
    take(run, model)
    run.optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.5})
    step = take(run, model)
    assert run.steps[0].names == ("2.weight", "2.bias")
    assert step.names == ("2.weight", "2.bias", "0.weight", "0.bias")
    assert step.asked.lr.tolist() == [0.1, 0.1, 0.5, 0.5]


def test_a_parameter_unfrozen_in_mid_run_is_listed_from_its_first_step_on() -> None:
    model = small_net()
    model[0].requires_grad_(False)
    run = Beside(named(model), SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert len(take(run, model).names) == 2
    model[0].requires_grad_(True)
    assert len(take(run, model).names) == 4
    assert take(run, model).took.dd.min() > 0


def test_a_replaced_parameter_is_found_by_asking_the_model_again() -> None:
    model = small_net()
    steps: list[Step] = []
    optimizer = SGD(model.parameters(), lr=0.1)
    Recorder(lambda: dict(model.named_parameters()), optimizer, steps.append)
    wider = nn.Linear(6, 9)
    model[2] = wider
    optimizer.param_groups[0]["params"][2:] = list(wider.parameters())
    run = Beside(named(model), optimizer)
    take(run, model)
    assert steps[0].names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert torch.equal(steps[0].took.columns(), run.steps[0].took.columns())


def test_a_parameter_that_the_names_do_not_know_is_left_out() -> None:
    model = small_net()
    optimizer = SGD(model.parameters(), lr=0.1)
    run = Beside({"head": model[2].weight}, optimizer)
    assert take(run, model).names == ("head",)


def test_a_run_whose_parameters_are_all_frozen_records_steps_without_blocks() -> None:
    model = small_net()
    run = Beside(named(model), SGD(model.parameters(), lr=0.1))
    model.requires_grad_(False)
    run.optimizer.step()
    step = run.steps[0]
    assert (step.names, step.took.ww.shape, step.asked.lr.shape) == ((), (0,), (0,))


def test_parameters_of_no_elements_and_of_no_dimensions_are_measured() -> None:
    params = {
        "empty": Parameter(torch.empty(0)),
        "flat": Parameter(torch.empty(3, 0)),
        "scalar": Parameter(torch.tensor(2.0)),
        "vector": Parameter(torch.randn(3)),
    }
    run = Beside(params, SGD(params.values(), lr=0.5), units=("flat", "scalar"))
    for p in params.values():
        p.grad = torch.ones_like(p)
    run.optimizer.step()
    step = run.steps[0]
    assert step.names == ("empty", "flat[0]", "flat[1]", "flat[2]", "scalar", "vector")
    assert step.took.ww[:5].tolist() == [0.0, 0.0, 0.0, 0.0, 4.0]
    assert step.took.dd.tolist() == [0.0, 0.0, 0.0, 0.0, 0.25, 0.75]


def test_accumulation_is_one_step_with_the_summed_gradient() -> None:
    model = small_net()
    run = Beside(named(model), AdamW(model.parameters()))
    batch = torch.randn(8, 5)
    whole = gradients(model, lambda: model(batch).square().sum() / 8)
    for part in batch.split(2):
        (model(part).square().sum() / 8).backward()
    run.assert_step(grads=whole, tolerance=1e-6)
    assert len(run.steps) == 1


def test_two_optimizers_record_each_its_own_blocks_and_count_their_own_steps() -> None:
    model = small_net()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    muon, adamw = (Beside(named(model), rule) for rule in (Muon(matrices, lr=0.02), AdamW(rest, lr=0.01)))
    for index in range(3):
        backward(model)
        muon.assert_step()
        if index != 1:
            adamw.assert_step()
    assert [step.optimizer for step in muon.steps + adamw.steps] == ["Muon"] * 3 + ["AdamW"] * 2
    assert [step.index for step in muon.steps + adamw.steps] == [0, 1, 2, 0, 1]
    assert muon.steps[-1].names == ("0.weight", "2.weight")
    assert adamw.steps[-1].names == ("0.bias", "2.bias")


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="`optimizer` holds none of the model's parameters; pass"):
        Recorder(named(small_net()), SGD(small_net().parameters(), lr=0.1), print)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["weight", "gradient"])
def test_what_is_not_finite_is_recorded_and_spoils_no_other_block(bad: float, where: str) -> None:
    model = small_net()
    run = Beside(named(model), SGD(model.parameters(), lr=0.1))
    backward(model)
    with torch.no_grad():
        (model[0].weight if where == "weight" else model[0].weight.grad)[0, 0] = bad
    run.optimizer.step()
    took = run.steps[0].took.columns()
    assert not took[0].isfinite().all()
    assert took[1:].isfinite().all()


def test_a_step_names_its_optimizer_as_it_was_told() -> None:
    model = small_net()
    run = Beside(named(model), SGD(model.parameters(), lr=0.1), name="trunk")
    step = take(run, model)
    assert step.optimizer == "trunk"
    assert step.loss != step.loss
    assert step.samples != step.samples
    assert not step.skipped
    with pytest.raises(AttributeError, match="cannot assign"):
        step.index = 3  # type: ignore[misc]

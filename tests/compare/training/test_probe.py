"""A model judged on the probe is left as it was, and its path has a bounded number of numbers."""

import torch
from tests.compare.training.nets import normalized, probe, problem
from torch import nn

from truestep.compare.training._probe import MOST, Outputs, Probe, from_there_on


def test_the_loss_is_the_problems_own_and_the_model_is_left_in_training() -> None:
    own = problem(build=normalized)
    model = own.build(0)
    before = [x.clone() for x in model.buffers()]
    loss, place = Probe(own, paths=False).of(model)
    assert float(loss) == own.probe_loss(model)
    assert place is None
    assert model.training
    assert all(map(torch.equal, before, model.buffers()))


def test_a_small_models_place_is_its_weights() -> None:
    model = problem().build(0)
    _, place = Probe(problem(), paths=True).of(model)
    assert place is not None
    assert torch.equal(place, nn.utils.parameters_to_vector(model.parameters()).float())


def test_a_large_models_place_is_its_outputs() -> None:
    own = problem(build=lambda _: nn.Linear(5, 30).double())
    model = own.build(0)
    _, place = Probe(own, paths=True).of(model)
    assert place is not None
    assert torch.equal(place, model(probe()[0]).flatten().float())


def test_of_many_outputs_evenly_spaced_ones_are_kept() -> None:
    outputs = Outputs(nn.Identity())((torch.arange(3.0 * MOST + 1),))
    assert torch.equal(outputs, torch.arange(0, 3.0 * MOST + 1, 4))


def test_what_was_once_not_finite_stays_so() -> None:
    losses = torch.tensor([[1.0, torch.inf, 2.0], [torch.nan, 1.0, 1.0], [3.0, 2.0, -torch.inf], [1e30, 2.0, 1.0]])
    inf = torch.inf
    expected = torch.tensor([[1.0, inf, inf], [inf, inf, inf], [3.0, 2.0, inf], [1e30, 2.0, 1.0]])
    assert torch.equal(from_there_on(losses.double()), expected.double())

"""Optimizers of pytorch_optimizer have steps of the wanted length too."""

from typing import Any

import pytest
import torch
from tests.compare.step_matched.nets import LENGTHS, blocks, length_of
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from truestep.compare.step_matched._step_matched import StepMatched

peers = pytest.importorskip("pytorch_optimizer")

LEFT_OUT = {
    "muon muonclip normuon adamuon adago distributedmuon": "their groups say which weights are for Muon",
    "lomo adalomo adammini": "they are built of the model",
    "adahessian sophiah": "they want a graph of the gradient",
    "alig": "it reads the loss from its closure",
    "bsam ranger21": "they are told sizes of the run",
    "demo": "it needs a process group",
    "spectralsphere": "it takes matrices alone",
    "sara": "it moves nothing here",
    "dadaptsgd": "its first steps are below the spacing of float32",
    "lbfgs": "refused",
}
LATE = ("adashift", "radam", "schedulefreeradam")  # they look at so many gradients first
NAMES = sorted(set(peers.get_supported_optimizers()) - set(" ".join(LEFT_OUT).split()))
TURNS = (("l2", "global"), ("linf", "tensor"), ("relative", "group"), ("rms", "unit"))


def step(model: nn.Module, optimizer: Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(8, 5, generator=generator), torch.randint(3, (8,), generator=generator)
    optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    optimizer.step()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", NAMES)
def test_what_a_step_moves_it_moves_by_the_wanted_length(name: str) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3, bias=False))
    optimizer: Any = peers.load_optimizer(name)(model.parameters(), lr=1e-3)
    if hasattr(optimizer, "train"):  # schedule-free: the weights are where gradients are taken
        optimizer.train()
    matched_blocks = 0
    for seed in range(12 if name in LATE else 4):
        norm, scope = TURNS[seed % 4]
        matched = StepMatched(optimizer, LENGTHS[norm], norm=norm, scope=scope)  # type: ignore[arg-type]
        floor, before = matched.state_dict()["floor"], blocks(optimizer, scope)
        step(model, optimizer, seed)
        for w, now, own in zip(before, blocks(optimizer, scope), matched.report.kept.tolist(), strict=True):
            matched_blocks += not own
            if own:
                assert torch.equal(w, now)  # SOAP, ADOPT and others only look at their first gradient
            else:
                assert length_of(w.double(), now.double(), norm, floor) == pytest.approx(LENGTHS[norm], rel=1e-3)
        matched.close()
    assert matched_blocks > 0

"""With a gradient scaler: its finding and ours are one, and its scale makes no difference."""

from typing import Any

import pytest
import torch
from tests.loss.skipping.runs import BAD, REASON, everything, network, same
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from truestep.loss import guard

RULES: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "SGD": (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "dampened": (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    "Adam": (Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "AdamW": (AdamW, {"lr": 0.01}),
    "Adagrad": (Adagrad, {"lr": 0.01}),
}


class Scaled:
    """A net trained through a gradient scaler on the CPU."""

    def __init__(self, rule: str, settings: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.model = network()
        kind, own = RULES[rule]
        self.optimizer = kind(self.model.parameters(), **own, **settings)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, backoff_factor=1.0 - 2**-52)  # stays

    def step(self, seed: int, bad: str = "", *, unscale: bool = False) -> None:
        batch = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))
        self.optimizer.zero_grad()
        self.scaler.scale((self.model(batch) - 1).square().mean()).backward()
        for p in self.model.parameters():
            if bad:
                assert p.grad is not None
                p.grad.mul_(0.0 if bad == "zero" else float(bad))
        if unscale:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        self.scaler.step(self.optimizer)
        self.scaler.update()


@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscaled and clipped"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("settings", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_under_a_scaler_a_bad_step_changes_no_bit(rule: str, settings: dict[str, Any], bad: str, unscale: bool) -> None:
    guarded, alone = Scaled(rule, settings), Scaled(rule, settings)
    skips = guard(guarded.optimizer)
    for seed, kind in enumerate([bad, "", bad, "", ""]):
        before = everything(guarded.model, guarded.optimizer)
        guarded.step(seed, kind, unscale=unscale)
        assert same(before, everything(guarded.model, guarded.optimizer)) == bool(kind)
        assert not hasattr(guarded.optimizer, "found_inf")
        assert not hasattr(guarded.optimizer, "grad_scale")
        if not kind:
            alone.step(seed, unscale=unscale)
    assert same(everything(guarded.model, guarded.optimizer), everything(alone.model, alone.optimizer))
    seen = 2 if bad == "zero" or "fused" in settings else 0  # else the scaler calls no step at all
    assert skips.reasons == {"not finite": 0, "zero": 0} | {REASON[bad]: seen}


def test_a_first_step_that_a_scaler_alone_would_skip_leaves_no_momentum_behind() -> None:
    run = Scaled("SGD", {"fused": True})
    skips = guard(run.optimizer)
    run.step(0, "inf")
    assert run.optimizer.state_dict()["state"] == {}
    assert skips.last == "not finite"


@pytest.mark.parametrize("first", [False, True])
def test_what_the_scaler_saw_counts_though_the_user_mended_the_gradients(first: bool) -> None:
    run = Scaled("Adam", {"fused": True})
    skips = guard(run.optimizer)
    if not first:
        run.step(0)
    run.optimizer.zero_grad()
    run.scaler.scale(run.model(torch.randn(8, 5)).square().mean() * torch.inf).backward()
    run.scaler.unscale_(run.optimizer)
    for p in run.model.parameters():
        assert p.grad is not None
        p.grad.fill_(1.0)
    before = everything(run.model, run.optimizer)
    run.scaler.step(run.optimizer)
    assert same(before, everything(run.model, run.optimizer))
    assert skips.reasons == {"not finite": 1, "zero": 0}


def test_a_scaler_over_several_devices_counts_to_one() -> None:
    run = Scaled("Adam", {"fused": True})
    guard(run.optimizer)
    run.step(0)
    for p in run.model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    run.optimizer.found_inf = torch.tensor(2.0)  # as GradScaler adds up two devices
    run.optimizer.grad_scale = torch.tensor(1024.0)
    before = everything(run.model, run.optimizer)
    run.optimizer.step()
    assert same(before, everything(run.model, run.optimizer))
    assert run.optimizer.found_inf.item() == 2.0

"""Only a rule that asks `found_inf`, and would leave no state behind, is told on the device."""

from typing import Any

import pytest
import torch
from tests.loss.skipping.runs import fill, network
from torch.optim import SGD, Adagrad, Adam, AdamW

from truestep.loss.skipping._fused import FoundInf, asks_found_inf, has_state


class Mine(Adam):
    """May do more than its base."""


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, Adagrad])
def test_torch_s_fused_rules_ask(kind: Any) -> None:
    params = list(network().parameters())
    assert asks_found_inf(kind(params, lr=0.1, fused=True))
    assert not asks_found_inf(kind(params, lr=0.1))
    assert not asks_found_inf(kind(params, lr=0.1, foreach=True))


def test_a_subclass_or_one_group_without_does_not() -> None:
    params = list(network().parameters())
    assert not asks_found_inf(Mine(params, fused=True))
    mixed = SGD([{"params": params[:2]}, {"params": params[2:], "fused": False}], 0.1, fused=True)
    assert not asks_found_inf(mixed)


@pytest.mark.parametrize(
    ("kind", "settings", "at_first"),
    [(SGD, {}, True), (SGD, {"momentum": 0.9}, False), (Adam, {}, False), (Adagrad, {}, True)],
)
def test_state_is_there_from_the_first_good_step_on(kind: Any, settings: dict[str, Any], at_first: bool) -> None:
    model = network()
    optimizer = kind(model.parameters(), lr=0.1, fused=True, **settings)
    (group,) = optimizer.param_groups
    assert [has_state(optimizer, group, p) for p in group["params"]] == [at_first] * 4
    fill(model, 0)
    optimizer.step()
    assert all(has_state(optimizer, group, p) for p in group["params"])


def test_asking_makes_no_state() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = SGD([p], 0.1, momentum=0.9)
    assert not has_state(optimizer, optimizer.param_groups[0], p)
    assert p not in optimizer.state


@pytest.mark.parametrize("own", [None, torch.tensor(0.0)], ids=["alone", "under a scaler"])
def test_what_is_told_is_gone_after_the_step_and_the_scaler_s_is_back(own: Any) -> None:
    optimizer: Any = SGD(network().parameters(), 0.1)
    if own is not None:
        optimizer.found_inf = own
    found = FoundInf(optimizer)
    for _ in range(2):
        found.tell(torch.tensor(0.0))
        found.tell(told := torch.tensor(1.0))
        assert optimizer.found_inf is found.present is told
        found.put_back()
        assert found.present is own
        found.put_back()


def test_what_a_scaler_wrote_since_stays() -> None:
    optimizer: Any = SGD(network().parameters(), 0.1)
    found = FoundInf(optimizer)
    found.tell(torch.tensor(1.0))
    optimizer.found_inf = later = torch.tensor(0.0)
    found.put_back()
    assert optimizer.found_inf is later

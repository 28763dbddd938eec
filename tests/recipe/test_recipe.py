"""A recipe refuses what its optimizer does not have, and fills in what it has by default."""

import inspect
import math
from typing import Any

import pytest
import torch

from truestep.recipe import Recipe
from truestep.recipe._recipe import KNOWN

ALL = [known for known in KNOWN if known.torch]


@pytest.mark.parametrize("known", ALL, ids=lambda known: known.name)
def test_the_settings_of_an_optimizer_and_their_defaults_are_torchs(known: Any) -> None:
    kind = getattr(torch.optim, known.torch, None)
    if kind is None:  # torch before 2.9 has no Muon
        pytest.skip(f"torch {torch.__version__} has no {known.torch}")
    takes = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    assert known.name == known.torch.lower()
    assert known.momentum == ("momentum" in takes)
    if known.family == "adam":
        assert takes["eps"] == known.eps
        assert takes.get("betas", (0.0, takes.get("alpha"))) == known.betas


@pytest.mark.parametrize(
    ("name", "decoupled"), [("SGD", False), ("Adam", False), ("AdamW", True), ("RMSprop", False), ("Muon", True)]
)
def test_a_decoupled_decay_is_one_that_acts_without_a_gradient_by_lr_times_decay(name: str, decoupled: bool) -> None:
    kind = getattr(torch.optim, name, None)
    if kind is None:
        pytest.skip(f"torch {torch.__version__} has no {name}")
    (known,) = (known for known in KNOWN if known.torch == name)
    ends = []
    for size in (1.0, 1e3):  # a coupled decay drowns in a large gradient, relative to the step
        weight = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.float64))
        with_decay, without = ([torch.nn.Parameter(weight.detach().clone())] for _ in range(2))
        for params, decay in ((with_decay, 0.1), (without, 0.0)):
            optimizer = kind(params, lr=0.01, weight_decay=decay)
            params[0].grad = size * torch.eye(4, dtype=torch.float64)
            optimizer.step()
        ends.append((with_decay[0] - without[0]).detach()[0, 0].item())
    assert all(end == pytest.approx(-0.001, rel=1e-3) for end in ends) == (decoupled or name == "SGD")
    assert known.decoupled == decoupled


def test_what_is_left_out_of_adam_is_its_default_and_of_sgd_nothing() -> None:
    assert Recipe("Adam", 1e-3, 32).betas == (0.9, 0.999)
    assert Recipe("adam", 1e-3, 32, betas=(0.8, 0.9), eps=0).eps == 0
    assert (Recipe("sgd", 0.1, 32).betas, Recipe("sgd", 0.1, 32).eps) == (None, None)


def test_a_class_is_known_by_its_name_whoever_wrote_it() -> None:
    class Lion(torch.optim.SGD):
        pass

    assert Recipe(torch.optim.AdamW, 1e-3, 32).known.name == "adamw"
    assert Recipe(Lion, 1e-3, 32).betas == (0.9, 0.99)


def test_items_per_step_are_micro_batch_times_accumulation_times_ranks() -> None:
    assert Recipe("sgd", 0.1, 8, gradient_accumulation=3, world_size=5).items_per_step == 120


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamx"}, "`optimizer` must be one of sgd, adam, adamw, .*; found 'adamx'"),
        ({"lr": 0.0}, "`lr` must be positive and finite; found 0.0"),
        ({"lr": math.nan}, "`lr` must be positive and finite; found nan"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1; found 0"),
        ({"steps": -3}, "`steps` must be a whole number"),
        ({"gradient_accumulation": 0}, "`gradient_accumulation` must be a whole number"),
        ({"world_size": 0}, "`world_size` must be a whole number"),
        ({"weight_decay": -0.1}, "`weight_decay` must be 0 or more, and finite; found -0.1"),
        ({"eps": math.inf, "optimizer": "adam"}, "`eps` must be 0 or more"),
        ({"momentum": 1.0}, "`momentum` must be at least 0 and below 1; found 1.0"),
        ({"betas": (0.9, 1.0), "optimizer": "adam"}, "`betas` must be at least 0 and below 1"),
        ({"betas": (0.9, 0.99)}, "`betas` is not a setting of sgd"),
        ({"eps": 1e-8, "optimizer": "lion"}, "`eps` is not a setting of lion"),
        ({"momentum": 0.9, "optimizer": "adam"}, "`momentum` is not a setting of adam: leave it out, or give `betas`"),
    ],
)
def test_a_value_out_of_range_or_foreign_to_the_optimizer_is_refused_by_name(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**({"optimizer": "sgd", "lr": 0.1, "batch_size": 32} | settings))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reduction": "max"}, "`reduction` must be mean or sum; found max"),
        ({"batch_size": 8.0}, "`batch_size` must be a whole number of at least 1; found 8.0"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**({"optimizer": "sgd", "lr": 0.1, "batch_size": 32} | settings))

"""The growing norm: each verdict from typed-in shares, and the identities on a short run."""

from functools import partial

import pytest
import torch
from torch.optim import SGD

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.growing_norm import ARMS, WITHOUT_DECAY, Arm, follow, judge, plot, run


def shares(**changed: float) -> list[Measurement]:
    usual: Measurement = {"step": [0.0, 1.0], "momentum_memory": 1e-16}
    for name in ARMS:
        usual |= {f"{name}_falls": 0.0, f"{name}_pythagoras": 1e-16, f"{name}_norm": [1.0, 1.1]}
    usual["sgd_decay_falls"] = 0.9
    return [dict(usual), usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"sgd_default_falls": 0.1}, Verdict.SUPPORTED),  # not one of the four that the threshold names
        *(({f"{name}_falls": 0.01}, Verdict.PARTLY) for name in WITHOUT_DECAY[1:]),
        ({"sgd_falls": 0.001}, Verdict.REFUTED),
        ({"sgd_pythagoras": 1e-11}, Verdict.REFUTED),
        ({"momentum_pythagoras": 0.02}, Verdict.SUPPORTED),  # only plain SGD has the identity
        ({"sgd_decay_falls": 0.0}, Verdict.INCONCLUSIVE),
    ],
)
def test_one_seed_with_a_fall_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(shares(**changed)).verdict is verdict


def test_the_reason_gives_adams_share_as_a_mean_over_seeds() -> None:
    assert "41 % under Adam" in judge(shares(adam_falls=0.82)).reason


def test_plain_sgd_keeps_pythagoras_and_decay_breaks_it() -> None:
    plain = follow(ARMS["sgd"], 0, "cpu", 40)
    decayed = follow(ARMS["sgd_decay"], 0, "cpu", 40)
    assert plain["pythagoras"].max() < 1e-14
    assert not plain["falls"].any()
    assert decayed["falls"].any()


def test_momentum_adds_twice_the_remembered_steps() -> None:
    trace = follow(ARMS["momentum"], 0, "cpu", 40)
    assert trace["memory"].max() < 1e-14
    assert trace["pythagoras"].max() > 1e-3
    assert not trace["falls"].any()


def test_the_momentum_identity_is_momentums_own() -> None:
    assert follow(ARMS["nesterov"], 0, "cpu", 40)["memory"].max() > 1e-4


def test_a_fall_is_counted_per_step_and_unit() -> None:
    pure_decay = Arm("", partial(SGD, lr=1e-9, weight_decay=1e6))  # w' = (1 - 1e-3) w, the gradient negligible
    trace = follow(pure_decay, 0, "cpu", 5)
    assert trace["falls"].shape == (4, 64)
    assert trace["falls"].all()
    torch.testing.assert_close(trace["norm"][1:], trace["norm"][:-1] * 0.999**2, rtol=1e-7, atol=0)


def test_a_measurement_holds_the_share_of_falls_of_each_arm() -> None:
    measured = run(0, "cpu", steps=40)
    assert measured["sgd_falls"] == measured["momentum_falls"] == measured["sgd_default_falls"] == 0.0
    assert 0.1 < measured["adam_falls"] < 0.9
    assert measured["sgd_decay_falls"] == follow(ARMS["sgd_decay"], 0, "cpu", 40)["falls"].double().mean()


def test_a_seed_gives_the_same_bits_again_and_another_seed_others() -> None:
    assert run(1, "cpu", steps=5) == run(1, "cpu", steps=5)
    assert run(1, "cpu", steps=5)["adam_norm"] != run(2, "cpu", steps=5)["adam_norm"]


def test_the_figure_names_each_arm_once() -> None:
    (axis,) = plot(shares()).axes
    labels = [text.get_text().split(":")[0] for text in axis.get_legend().get_texts()]
    assert labels == [arm.label for arm in ARMS.values()]

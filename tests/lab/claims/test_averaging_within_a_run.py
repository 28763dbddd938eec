"""Averaging: each verdict from typed-in losses, the pairs, and the average of two models by hand."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from truestep.lab import Measurement, Verdict
from truestep.lab._digits import accuracy, digits, mlp
from truestep.lab.claims.averaging_within_a_run import (
    FIRST,
    OTHER,
    PAIRS,
    RUN,
    SNAPSHOTS,
    TWIN,
    judge,
    pairs,
    plot,
    run,
    score,
    train,
)

USUAL = {"near": -0.02, "late": -0.02, "far": -0.02, "twin": 0.01, "across": 0.3}


def typed_in(**changed: float) -> list[Measurement]:
    one: Measurement = {"single_loss": [0.5] * SNAPSHOTS, "all_loss": 0.4, "mean_loss": 0.5}
    one |= {"all_accuracy": 0.98, "mean_accuracy": 0.96}
    for kind in PAIRS:
        one |= {f"{kind}_loss": changed.get(kind, USUAL[kind]), f"{kind}_better": 1.0}
        one[f"{kind}_accuracy"] = changed.get(f"{kind}_accuracy", -USUAL[kind] / 10)
    return [one, one]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"twin": -0.1}, Verdict.SUPPORTED),  # told, not judged
        ({"far": 0.01}, Verdict.PARTLY),
        ({"near": 0.01, "late": 0.01}, Verdict.PARTLY),
        ({"near": 0.01, "late": 0.01, "far": 0.01}, Verdict.REFUTED),
        ({"across": -0.01}, Verdict.REFUTED),
        ({"across_accuracy": 0.01}, Verdict.PARTLY),
    ],
)
def test_within_must_gain_and_across_must_lose(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_an_uncertain_loss_across_is_inconclusive() -> None:
    assert judge([typed_in(across=-0.3)[0], typed_in(across=0.4)[0]]).verdict is Verdict.INCONCLUSIVE


def test_pairs_stay_within_a_run_or_go_across_at_the_same_step() -> None:
    assert all(a == b == RUN and j == i + 1 for kind in ("near", "late") for (a, i), (b, j) in pairs(kind))
    assert all(a == b == RUN and j == i + 10 for (a, i), (b, j) in pairs("far"))
    assert all((a, b) == (RUN, TWIN) and i == j for (a, i), (b, j) in pairs("twin"))
    assert all((a, b) == (RUN, OTHER) and i == j for (a, i), (b, j) in pairs("across"))
    snapshots = [index for kind in PAIRS for pair in pairs(kind) for _, index in pair]
    assert (min(snapshots), max(snapshots)) == (FIRST, SNAPSHOTS - 1)


def test_a_score_is_that_of_the_mean_weights_with_fresh_statistics() -> None:
    data = digits()
    models = [
        mlp((8,), lambda n: torch.nn.BatchNorm1d(n, affine=False), torch.Generator().manual_seed(i)) for i in (0, 1)
    ]
    by_hand = mlp((8,), lambda n: torch.nn.BatchNorm1d(n, momentum=None, affine=False), torch.Generator())
    with torch.no_grad():
        for w, one, other in zip(by_hand.parameters(), *(m.parameters() for m in models), strict=True):
            w.copy_((one + other) / 2)
        by_hand(data.train_x)
        found = score(models, data)
        assert found.accuracy == pytest.approx(accuracy(by_hand, data))
        by_hand.eval()
        assert found.loss == pytest.approx(cross_entropy(by_hand(data.test_x), data.test_y).item(), rel=1e-5)


def test_the_twin_starts_where_the_run_does_and_the_other_elsewhere_under_the_same_output_layer() -> None:
    snapshots = train(0, digits(), 1)
    one, twin, other = ([p.detach() for p in kept[0].parameters()] for kept in snapshots)
    assert all(torch.equal(a, b) for a, b in zip(one, twin, strict=True))
    assert not torch.equal(one[0], other[0])
    assert torch.equal(one[-1], other[-1])
    assert not torch.equal(next(snapshots[RUN][2].parameters()), next(snapshots[TWIN][2].parameters()))
    assert [len(kept) for kept in snapshots] == [SNAPSHOTS] * 3


def test_a_short_run_measures_every_kind() -> None:
    assert set(run(0, "cpu", every=1)) == set(typed_in()[0])


def test_the_figure_has_a_row_for_each_kind() -> None:
    left, _ = plot(typed_in()).axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == list(PAIRS.values())

"""Mixing: each verdict from typed-in distances, the distances by hand, and a run of a few steps."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._digits import digits
from truestep.lab._ensemble import draw_ensemble, repeated
from truestep.lab.claims.mixing_in_function_space import (
    DECAYS,
    STARTS,
    TIMES,
    apart,
    disagreement,
    excess,
    floor,
    judge,
    l1_between,
    plot,
    prepare,
    run,
)


def typed_in(apart: float = 0.5, **shares: float) -> list[Measurement]:
    """Excess shares: `slow_early` for 2 time scales, `slow_late` for 4 and 6, and so on; floor 0.03."""
    one: Measurement = {"slow_apart": apart, "fast_apart": apart}
    for arm in DECAYS:
        early, late = shares.get(f"{arm}_early", 0.2), shares.get(f"{arm}_late", 0.02)
        left = [late if time > 2 else early if time == 2 else 1.0 for time in TIMES]
        one |= {f"{arm}_l1": [0.03 + 0.1 * share for share in left], f"{arm}_floor": [0.03] * len(TIMES)}
        one |= {f"{arm}_{name}": [0.05] * len(TIMES) for name in ("between", "within", "error")}
    return [one, one]


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (typed_in(), Verdict.SUPPORTED),
        (typed_in(fast_early=0.6), Verdict.PARTLY),
        (typed_in(slow_late=0.2), Verdict.PARTLY),
        (typed_in(fast_late=0.6), Verdict.REFUTED),
        (typed_in(apart=0.05), Verdict.INCONCLUSIVE),
        ([typed_in(slow_late=-0.2)[0], typed_in(slow_late=0.4)[0]], Verdict.INCONCLUSIVE),
    ],
)
def test_the_excess_must_be_gone_in_time_scales(measured: list[Measurement], verdict: Verdict) -> None:
    assert judge(measured).verdict is verdict


def test_the_excess_is_a_share_of_the_first() -> None:
    assert excess(typed_in()[0], "slow")[TIMES.index(2.0)] == pytest.approx(0.2)


def test_l1_of_sure_starts_that_differ_is_two() -> None:
    labels = torch.tensor([[[3, 1]] * 4, [[5, 1]] * 4])  # differ on one image of two
    assert l1_between(labels) == 1.0
    assert disagreement(labels) == (0.5, 0.0)


def test_the_floor_is_what_the_same_distribution_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (2, 40, 300), generator=generator)
    assert floor(labels, generator) == pytest.approx(l1_between(labels), rel=0.05)
    assert l1_between(labels) > 0.1  # and that is not 0


def test_the_gap_of_disagreements_is_free_of_the_number_of_copies() -> None:
    generator = torch.Generator().manual_seed(0)
    for copies in (2, 20):
        between, within = disagreement(torch.randint(2, (3, copies, 20_000), generator=generator))
        assert between == pytest.approx(0.5, abs=0.02)
        assert within == pytest.approx(0.5, abs=0.02)


def test_copies_of_a_start_are_nearer_than_other_starts_and_the_same_for_unrelated_nets() -> None:
    unrelated = draw_ensemble(12, (16,), torch.Generator().manual_seed(0))
    assert abs(apart(unrelated, 3)) < 0.1
    near = repeated(draw_ensemble(3, (16,), torch.Generator().manual_seed(0)), 4)
    with torch.no_grad():
        near.hidden[0].add_(0.05 * torch.randn(near.hidden[0].shape, generator=torch.Generator().manual_seed(1)))
    assert apart(near, 3) > 1


def test_starts_have_their_scales_and_one_output_layer() -> None:
    nets = prepare(digits(), 2, torch.Generator().manual_seed(0), 0)
    norms = nets.hidden[0].detach().flatten(1).norm(dim=1)
    for i, (scale, _, _) in enumerate(STARTS):
        assert norms[2 * i].item() == pytest.approx(scale * 32**0.5, rel=0.1)
    assert (nets.head == nets.head[0]).all()


def test_a_short_run_measures_every_time() -> None:
    measured = run(0, "cpu", copies=2, factor=0.01)
    assert set(measured) == set(typed_in()[0])
    assert all(len(value) == len(TIMES) for value in measured.values() if isinstance(value, list))
    assert measured["slow_l1"][0] == measured["fast_l1"][0]  # type: ignore[index]


def test_the_figure_has_a_curve_of_the_excess_for_each_seed() -> None:
    right = plot(typed_in()).axes[1]
    assert len(right.lines) == len(DECAYS) * 2 + 2

"""Papers' optimizers: each verdict from typed-in losses, the grids, a short run."""

import math

import pytest

from truestep.compare.problems import digits_mlp
from truestep.lab import Measurement, Verdict
from truestep.lab.claims.papers_optimizers import (
    CONTROLS,
    NEW,
    RULES,
    WAYS,
    WIDTH,
    against_old,
    final,
    grid,
    judge,
    plot,
    run,
)


def typed_in(**best: float) -> list[Measurement]:
    """Losses that are 0 but at each grid's middle; by default a tuned rule is at -5, and a new one 1 above that."""
    one: Measurement = {}
    for name in RULES:
        for control in CONTROLS:
            row = [0.0] * WIDTH
            row[4] = best.get(f"{name}_{control}", best.get(control, -4.0) if name in NEW else -5.0)
            one[f"{name}_{control}"] = row
    return [one, one, one]


@pytest.mark.parametrize(
    ("best", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"l2": -6.0}, Verdict.PARTLY),  # steps matched, the new ones are better
        ({"lr": -6.0, "l2": -6.0, "relative": -6.0}, Verdict.REFUTED),
        ({"lr": -5.0, "l2": -5.0, "relative": -5.0}, Verdict.PARTLY),  # no difference: they do not out-perform
        ({"lion_lr": 1.0}, Verdict.INCONCLUSIVE),  # not even against default lrs
    ],
)
def test_the_papers_way_first_and_then_the_fair_ones(best: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**best)).verdict is verdict


def test_each_is_compared_with_the_better_old_rule() -> None:
    measured = typed_in(sgd_lr=-7.0, adam_lr=-5.0)
    assert against_old(measured, "lr")["lion"].mean == pytest.approx(3.0)
    assert against_old(measured, "paper")["lion"].mean == pytest.approx(-4.0)  # the old at default: 0
    assert against_old(measured, "default")["lion"].mean == pytest.approx(0.0)


@pytest.mark.parametrize("name", RULES)
def test_every_grid_of_lrs_has_the_default(name: str) -> None:
    rule = RULES[name]
    assert grid(rule, "lr")[-rule.first] == 1.0
    weight = digits_mlp().build(0)
    assert rule.factory(weight.parameters()).param_groups[0]["lr"] == rule.lr


def test_the_reason_tells_who_is_best_at_the_edge_of_a_grid() -> None:
    measured = typed_in()
    assert judge(measured).reason.endswith("Best at the edge of its grid: nobody.")
    for one in measured:
        one["lion_relative"] = [float(WIDTH - 1 - k) for k in range(WIDTH)]
    judgement = judge(measured)
    assert judgement.reason.endswith("Best at the edge of its grid: Lion (steps matched, relative).")
    assert "Lion 148x" in judgement.reason  # e^5
    assert judgement.numbers == {"at_edge": 1.0}


def test_a_run_that_diverges_has_the_cap() -> None:
    rule = RULES["sgd"]._replace(first=40)
    assert max(final(digits_mlp(), rule, "lr", 0, 4)) == 10.0


def test_a_short_run_has_all_that_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: RULES[name] for name in ("sgd", "lion")}
    monkeypatch.setattr("truestep.lab.claims.papers_optimizers.RULES", few)
    measured = run(0, "cpu", steps=1)
    assert set(measured) == {name for name in typed_in()[0] if name.startswith(tuple(few))}
    assert all(math.isfinite(x) for row in measured.values() for x in row)  # type: ignore[union-attr]


def test_the_figure_has_a_dot_for_each_way_and_rule() -> None:
    (axis,) = plot(typed_in()).axes
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert len(dots) == len(WAYS) * len(NEW)

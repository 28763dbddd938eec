"""Optimizers under unit loss: each verdict from typed-in losses, the scale on a short run."""

from functools import partial

import pytest

from truestep.compare.problems import digits_mlp
from truestep.lab import Measurement, Verdict
from truestep.lab.claims.unit_loss_optimizers import LOSSES, RULES, WIDTH, judge, plot, run, spread, times


def typed_in(*, apart: float = 0.2, unit: float = 0.0, raw: float = 1.0) -> list[Measurement]:
    """Tuned final losses that lie 1 nat apart on the raw loss, and `apart` under unit loss."""
    one: Measurement = {}
    for i, name in enumerate(RULES):
        for loss in LOSSES:
            row = [5.0] * WIDTH
            row[3] = -5 + i * (apart if loss == "unit" else 1.0)
            one |= {f"{name}_{loss}": row, f"{name}_{loss}_change": unit if loss == "unit" else raw}
    return [one, one, one]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"apart": 0.8}, Verdict.PARTLY),
        ({"unit": 0.2}, Verdict.PARTLY),
        ({"apart": 0.8, "unit": 0.2}, Verdict.REFUTED),
        ({"raw": 0.01}, Verdict.INCONCLUSIVE),
    ],
)
def test_the_scale_and_the_spread(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_a_spread_that_crosses_the_bound_is_inconclusive() -> None:
    measured = [typed_in(apart=apart)[0] for apart in (0.3, 0.5, 0.7)]
    assert judge(measured).verdict is Verdict.INCONCLUSIVE


def test_the_spread_is_the_standard_deviation_over_the_optimizers() -> None:
    assert spread(typed_in(), "raw") == pytest.approx([2.0] * 3)  # of 0 to 6
    assert judge(typed_in()).intervals["spread_ratio"].mean == pytest.approx(0.2)


def test_a_scaled_problem_has_the_loss_times_the_factor() -> None:
    problem = digits_mlp()
    model, batch = problem.build(0), problem.probe()
    scaled = partial(times, 8.0, problem)(model, batch)
    assert scaled.item() == pytest.approx(8 * problem.loss_fn(model, batch).item())


def test_on_a_short_run_the_scale_moves_sgd_on_the_raw_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truestep.lab.claims.unit_loss_optimizers.RULES", {"sgd": RULES["sgd"]})
    measured = run(0, "cpu", steps=3)
    assert set(measured) == {name for name in typed_in()[0] if name.startswith("sgd")}
    assert measured["sgd_raw_change"] > 0.1  # type: ignore[operator]
    assert measured["sgd_unit_change"] < 1e-5  # type: ignore[operator]


def test_the_figure_names_both_losses() -> None:
    left, _ = plot(typed_in()).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["raw loss", "unit loss"]

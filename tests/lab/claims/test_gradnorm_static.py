"""Static weights from a GradNorm run: each verdict from typed-in numbers, and a short run against its own trainings."""

import math

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab import toy as lab_toy
from truestep.lab._toy_methods import gradnorm
from truestep.lab.claims import gradnorm_static
from truestep.lab.claims.gradnorm_static import GRIDS, judge, plot, run
from truestep.lab.toy import make_toy, train


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for sigma, grid in GRIDS.items():
        key = f"s{sigma:.0f}"
        usual |= {f"{key}_grid": [0.5 + 0.01 * d for d in range(len(grid))], f"{key}_dynamic": 0.5}
        usual |= {f"{key}_static": 0.5, f"{key}_decades": 1.0, f"{key}_off": 0.1}
        usual |= {f"{key}_log_best": 0.01, f"{key}_log_dynamic": 0.0}
    return [usual | changed, usual | {name: 1.01 * value for name, value in changed.items()}]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"s100_off": -2.0}, Verdict.PARTLY),
        ({"s3_log_best": 0.2}, Verdict.PARTLY),  # near, but worse
        ({"s3_off": 0.9, "s100_off": -2.0}, Verdict.REFUTED),
        ({"s3_log_best": 0.2, "s100_off": -2.0}, Verdict.REFUTED),
        ({"s100_off": -2.0, "s3_off": 0.498}, Verdict.INCONCLUSIVE),
        ({"s3_log_dynamic": 1.0}, Verdict.SUPPORTED),  # told, not judged
    ],
)
def test_weights_near_the_best_and_as_good_are_close(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_the_reason_gives_ratios_of_weights_and_all_four_losses() -> None:
    measured = typed_in(s100_decades=1.0, s100_off=-2.0, s100_static=0.9, s100_log_best=math.log(1.5))
    for one in measured:
        one |= {"s100_decades": 1.0, "s100_off": -2.0, "s100_static": 0.9}
    reason = judge(measured).reason
    assert "mean weights are 10 to 1, the grid's best 1e+03 to 1" in reason
    assert "0.900 retrained with them, 0.500 in the run itself" in reason
    assert "0.500 with equal weights" in reason  # the grid at 0 decades


def test_a_run_retrains_with_the_mean_weights_of_its_gradnorm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_toy, "TEST", 30)
    monkeypatch.setattr(gradnorm_static, "GRIDS", {100.0: (0.0, 1.0)})
    found = run(0, "cpu", steps=2)
    dynamic = train(make_toy([1.0, 100.0], 0), gradnorm(), lr=gradnorm_static.LR, steps=2, seed=0)
    assert found["s100_dynamic"] == dynamic.mean
    assert found["s100_decades"] == pytest.approx(math.log10(dynamic.static["f0"] / dynamic.static["f1"]))
    assert found["s100_off"] == pytest.approx(found["s100_decades"] - [0.0, 1.0][_argmin(found["s100_grid"])])
    assert found["s100_log_best"] == pytest.approx(math.log(found["s100_static"] / min(found["s100_grid"])))


def _argmin(values: list[float]) -> int:
    return values.index(min(values))


def test_the_figure_has_a_panel_for_each_pair_of_scales() -> None:
    assert [axis.get_title() for axis in plot(typed_in()).axes] == [f"sigma 1 and {sigma:.0f}" for sigma in GRIDS]

"""The statistics path: each verdict from typed-in numbers, and short runs with and without it."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._blocks import centred_digits
from truestep.lab.claims.statistics_path import CENTER, PATHS, built, gradients, judge, plot, ratio, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"full_centred": 1e-15, "direct_uncentred": 1e-16, "direct_centred": 3.0, "ratio": 3.0}
    usual |= {"ratio_norm": 4.0, "full_difference": 1e-14, "direct_difference": 2.0}
    for path in PATHS:
        usual |= {f"{path}_loss": 0.3, f"{path}_losses": [2.0, 1.0], f"{path}_losses_plain": [2.0, 1.0]}
    return [dict(usual), usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"full_difference": 2e-9}, Verdict.PARTLY),
        ({"direct_difference": 0.09}, Verdict.PARTLY),
        ({"full_centred": 2e-12}, Verdict.REFUTED),
        ({"direct_uncentred": 2e-12}, Verdict.REFUTED),
        ({"ratio": 1.4, "full_centred": 1.0}, Verdict.INCONCLUSIVE),
    ],
)
def test_one_seed_beyond_a_threshold_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_the_reason_holds_the_numbers() -> None:
    reason = judge(typed_in(full_centred=4e-14, direct_difference=0.77)).reason
    assert all(number in reason for number in ("centred inputs to 4e-14", "by 0.77 or more"))


def test_a_short_run_feels_the_offset_without_the_path_alone() -> None:
    found = run(0, "cpu", steps=3)
    assert max(found["full_centred"], found["direct_uncentred"], found["full_difference"]) < 1e-12
    assert min(found["direct_difference"], found["direct_centred"], found["full_uncentred"]) > 0.05
    assert min(found["ratio"], found["ratio_norm"]) > 1.5
    assert found["full_losses"] == pytest.approx(found["full_losses_plain"], rel=1e-12)


def test_both_paths_have_the_same_outputs_and_the_ratio_is_that_of_their_gradients() -> None:
    x, y = centred_digits("cpu", 50, torch.Generator().manual_seed(0))
    full, direct = (built(path, 2.0, 0, "cpu") for path in PATHS)
    assert torch.equal(full(x), direct(x))
    norms = [float(gradients(model, x, y)["own"].norm()) for model in (direct, full)]
    assert ratio(full, x, y, CENTER) == pytest.approx(norms[0] / norms[1])


def test_the_figure_has_a_panel_for_each_path() -> None:
    assert [axis.get_title() for axis in plot(typed_in()).axes] == ["batch centering", "statistics path cut"]

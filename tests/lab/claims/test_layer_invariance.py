"""The invariance of K-FAC: each verdict from typed-in differences, and two steps of each arm."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.layer_invariance import ARMS, CODES, judge, pair, plot, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {f"{name}_{code}": 1.0 for name in ARMS for code in CODES}
    usual |= {f"kfac_{code}": 1e-9 for code in CODES} | {f"{name}_way": 9.0 for name in ARMS}
    return [dict(usual), usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.PARTLY),
        ({"kfac_layer": 2e-6}, Verdict.REFUTED),
        ({"kfac_units": 2e-6}, Verdict.REFUTED),
        ({"sgd_layer": 0.09, "kfac_layer": 1.0}, Verdict.INCONCLUSIVE),
    ],
)
def test_one_seed_beyond_a_threshold_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_it_is_supported_if_damping_leaves_it_too() -> None:
    one = typed_in()[0] | {"damped_layer": 1e-3, "damped_units": 9e-3}
    assert judge([one, one]).verdict is Verdict.SUPPORTED
    assert judge([one, one | {"damped_layer": 0.02}]).verdict is Verdict.PARTLY


def test_the_reason_holds_the_numbers() -> None:
    reason = judge(typed_in(kfac_layer=3e-8, sgd_units=0.25)).reason
    assert "at most 3e-08 apart under K-FAC without damping" in reason
    assert "0.25 or more under SGD" in reason


def test_twins_start_as_one_function_whose_last_logit_is_0() -> None:
    for code in CODES:
        plain, twin, x, _ = pair(code, 0, "cpu")
        torch.testing.assert_close(plain(x), twin(x), rtol=1e-11, atol=1e-12)
        assert not bool(twin(x)[:, -1].any())


def test_two_steps_keep_twins_together_under_kfac_alone() -> None:
    found = run(0, "cpu", steps=2)
    for code in CODES:
        assert found[f"kfac_{code}"] < 1e-8
        assert min(found[f"sgd_{code}"], found[f"damped_{code}"]) > 1e-2
    assert found["kfac_way"] > 0.1


def test_the_figure_has_a_row_for_each_arm_and_code() -> None:
    (axis,) = plot(typed_in()).axes
    assert len(axis.get_yticklabels()) == len(ARMS) * len(CODES)

"""The invariance of quasi-diagonal steps: each verdict from typed-in differences, and short runs of the arms."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.unit_invariance import ARMS, CODES, judge, pair, plot, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {f"{name}_{code}": 1.0 for name in ARMS for code in CODES}
    usual |= {f"{name}_{code}": 1e-12 for name in ("exact", "empirical") for code in ("tanh", "units")}
    usual |= {"exact_way": 9.0}
    return [dict(usual), usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.PARTLY),
        ({"exact_layer": 50.0, "adam_tanh": 0.0}, Verdict.PARTLY),
        ({"exact_tanh": 2e-9}, Verdict.REFUTED),
        ({"exact_units": 2e-9}, Verdict.REFUTED),
        ({"empirical_units": 2e-9}, Verdict.REFUTED),
        ({"exact_units": float("inf")}, Verdict.REFUTED),
        ({"sgd_units": 0.09, "exact_tanh": 1.0}, Verdict.INCONCLUSIVE),
    ],
)
def test_one_seed_beyond_a_threshold_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_it_is_supported_if_damping_leaves_it_too() -> None:
    one = typed_in()[0] | {"damped_tanh": 1e-3, "damped_units": 9e-3}
    assert judge([one, one]).verdict is Verdict.SUPPORTED
    assert judge([one, one | {"damped_tanh": 0.02}]).verdict is Verdict.PARTLY


def test_the_reason_holds_the_numbers() -> None:
    reason = judge(typed_in(exact_units=3e-10, damped_units=7.5)).reason
    assert "3e-10 apart with the exact Fisher" in reason
    assert "up to 7.5 at the default damping of 0.01" in reason


def test_twins_start_as_one_function() -> None:
    for code in CODES:
        plain, twin, x, _ = pair(code, 0, "cpu")
        torch.testing.assert_close(plain(x), twin(x), rtol=1e-11, atol=1e-12)


def test_a_short_run_keeps_twins_together_where_it_is_promised() -> None:
    found = run(0, "cpu", steps=3)
    for code in ("tanh", "units"):
        assert max(found[f"exact_{code}"], found[f"empirical_{code}"]) < 1e-11
        assert min(found[f"sgd_{code}"], found[f"adam_{code}"], found[f"damped_{code}"]) > 1e-3
    assert found["exact_layer"] > 1e-2
    assert found["exact_way"] > 0.05


def test_the_figure_has_a_row_for_each_arm_and_code() -> None:
    (axis,) = plot(typed_in()).axes
    assert len(axis.get_yticklabels()) == len(ARMS) * len(CODES)

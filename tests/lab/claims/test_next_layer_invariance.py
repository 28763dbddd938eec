"""Batch norm behind the next layer: each verdict from typed-in differences, and the measurement itself."""

import pytest
import torch
from torch import nn

from truestep.lab import Measurement, Verdict
from truestep.lab._recoded import Affine, identity
from truestep.lab.claims.next_layer_invariance import CASES, HEAD, HIDDEN, inserted, judge, plot, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = dict.fromkeys(CASES, 1e-15)
    usual |= {"units": 2.0, "head": 1.5, "default_large": 1e-4, "default_small": 0.4}
    usual |= {f"losses_{name}": [2.0, 1.0] for name in ("plain", "hidden", "head")}
    return [dict(usual), usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.PARTLY),
        ({"shift": 2e-9}, Verdict.REFUTED),
        ({"large": 2e-9}, Verdict.REFUTED),
        ({"small": 2e-9}, Verdict.REFUTED),
        ({"trained": 2e-9}, Verdict.REFUTED),
        ({"head": 0.09, "shift": 1.0}, Verdict.INCONCLUSIVE),
    ],
)
def test_one_seed_beyond_a_threshold_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [({}, Verdict.SUPPORTED), ({"units": 2e-9}, Verdict.PARTLY), ({"default_shift": 0.02}, Verdict.PARTLY)],
)
def test_it_is_supported_if_no_unit_s_scale_and_no_eps_matters(changed: dict[str, float], verdict: Verdict) -> None:
    one = typed_in()[0] | {"units": 1e-10, "default_small": 5e-3}
    assert judge([one, one | changed]).verdict is verdict


def test_the_reason_holds_the_numbers() -> None:
    reason = judge(typed_in(units=2.5, trained=4e-13, default_small=0.61)).reason
    assert all(number in reason for number in ("by 4e-13 at most", "up to 2.5:", "up to 0.61"))


def test_a_short_run_sees_no_shift_or_scale_but_single_units_eps_and_the_head() -> None:
    found = run(0, "cpu", steps=3)
    assert max(found[case] for case in ("shift", "large", "small", "trained", "default_shift")) < 1e-12
    assert 1e-7 < found["default_large"] < 1e-3 < 0.05 < min(found[name] for name in ("default_small", "units", "head"))
    assert found["losses_plain"] == pytest.approx(found["losses_hidden"], rel=1e-12)
    assert found["losses_plain"] != pytest.approx(found["losses_head"], rel=1e-3)


def test_the_map_comes_behind_the_activation() -> None:
    for place in (HIDDEN, HEAD):
        model = inserted(0, "cpu", identity(32, torch.Generator()), place)
        assert isinstance(model[place], Affine)
        assert isinstance(model[place - 1], nn.ReLU)
        assert isinstance(model[place + 1], nn.Linear)


def test_the_figure_has_a_row_for_each_case() -> None:
    left, _ = plot(typed_in()).axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(CASES.values())

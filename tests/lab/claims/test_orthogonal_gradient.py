"""The orthogonal gradient: each verdict from typed-in cosines, and the measurement itself."""

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.orthogonal_gradient import CASES, EXACT, PRACTICAL, judge, plot, run


def cosines(**changed: float) -> list[Measurement]:
    usual = dict.fromkeys(CASES, 1e-15) | {"default": 5e-5, "default_trained": 6e-5}
    usual |= {"default_small": 0.4, "layernorm_unit": 0.45, "head_unit": 0.5}
    return [dict(usual), usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"default_small": 0.9}, Verdict.SUPPORTED),  # a limit that the reason names, not the claim
        ({"default_trained": 2e-3}, Verdict.PARTLY),
        ({"default": 2e-3}, Verdict.PARTLY),
        ({"exact": 1e-11}, Verdict.REFUTED),
        ({"exact_trained": 1e-11}, Verdict.REFUTED),
        ({"layernorm_tensor": 1e-11}, Verdict.REFUTED),
        ({"head_unit": 5e-3}, Verdict.INCONCLUSIVE),
        ({"layernorm_unit": 5e-3, "exact": 1.0}, Verdict.INCONCLUSIVE),
    ],
)
def test_one_seed_beyond_a_threshold_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(cosines(**changed)).verdict is verdict


def test_the_reason_holds_the_numbers() -> None:
    reason = judge(cosines(exact=3e-14, default=7e-4, default_small=0.77)).reason
    assert all(number in reason for number in ("3e-14", "7e-04", "0.77"))


def test_a_short_run_is_orthogonal_where_it_must_be_and_nowhere_else() -> None:
    measured = run(0, "cpu", steps=5)
    assert list(measured) == list(CASES)
    assert max(measured["exact"], measured["exact_trained"], measured["layernorm_tensor"]) < EXACT
    assert measured["exact"] < EXACT < measured["default"] < PRACTICAL
    assert min(measured["default_small"], measured["layernorm_unit"], measured["head_unit"]) > 0.1


def test_a_seed_gives_the_same_bits_again_and_another_seed_others() -> None:
    assert run(1, "cpu", steps=3) == run(1, "cpu", steps=3)
    assert run(1, "cpu", steps=3)["default"] != run(2, "cpu", steps=3)["default"]


def test_the_figure_has_a_row_for_each_case() -> None:
    (axis,) = plot(cosines()).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(CASES.values())

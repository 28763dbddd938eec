"""Disagreement: each verdict from typed-in probabilities."""

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.mixing_in_function_space import DECAYS, TIMES
from truestep.lab.claims.vanishing_disagreement import course, judge, plot, run

ERROR = 0.05  # prior 0.095


def typed_in(between: float = 0.07, gap: float = 0.0, first: float = 0.03) -> list[Measurement]:
    one: Measurement = {}
    for arm in DECAYS:
        within = between - gap
        one |= {
            f"{arm}_between": [within + first] + [between] * (len(TIMES) - 1),
            f"{arm}_within": [within] * len(TIMES),
        }
        one[f"{arm}_error"] = [ERROR] * len(TIMES)
    return [one, one]


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (typed_in(between=0.005), Verdict.SUPPORTED),
        (typed_in(), Verdict.PARTLY),
        (typed_in(gap=0.01), Verdict.REFUTED),
        (typed_in(first=-0.01), Verdict.INCONCLUSIVE),
        ([typed_in(between=0.001)[0], typed_in(between=0.02)[0]], Verdict.INCONCLUSIVE),
        ([typed_in(gap=-0.02)[0], typed_in(gap=0.03)[0]], Verdict.INCONCLUSIVE),
    ],
)
def test_disagreement_and_its_gap_are_judged_apart(measured: list[Measurement], verdict: Verdict) -> None:
    assert judge(measured).verdict is verdict


def test_the_course_holds_the_prior_and_the_gap_as_a_share() -> None:
    found = course(typed_in(gap=0.006)[0], "slow")
    assert found["prior"][0] == pytest.approx(0.095)
    assert found["gap"][1:] == pytest.approx([0.2] * (len(TIMES) - 1))
    assert found["first"] == pytest.approx([0.03])


def test_the_reason_says_no_more_across_than_within_only_where_it_is_so() -> None:
    assert "no more across" in judge(typed_in()).reason
    assert "no more across" not in judge(typed_in(gap=0.01)).reason


def test_a_run_is_that_of_the_mixing_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    import truestep.lab.claims.vanishing_disagreement as module

    monkeypatch.setattr(module, "run_mixing", lambda seed, device: {"seed": float(seed)})
    assert run(3, "cpu") == {"seed": 3.0}


def test_the_figure_has_a_panel_for_each_decay() -> None:
    assert len(plot(typed_in()).axes) == len(DECAYS)

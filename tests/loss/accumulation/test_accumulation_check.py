"""The report of a check, and what it calls right."""

from dataclasses import replace

from tests.loss.accumulation.evidence import evidence, multiple
from tests.loss.accumulation.loops import each, mean, mlp, window

from truestep.loss import AccumulationCheck, check_accumulation


def test_the_report_has_the_figures_the_cause_and_the_remedy() -> None:
    told = str(check_accumulation(mlp(), mean, window(8, 8, 8, 8), each(mean)))
    assert "WRONG" in told
    assert "ratio 4.0000" in told
    assert "half of it" in told
    assert "cause: missing division" in told
    assert "remedy: divide each loss by 4" in told
    assert str(check_accumulation(mlp(), mean, window(8))).startswith("gradient accumulation: right")


def made(factor: float, short: AccumulationCheck | None = None) -> AccumulationCheck:
    return AccumulationCheck(factor, 1.0, abs(factor - 1), "", 0.0, short, evidence=evidence(multiple(factor)))


def test_a_check_is_right_only_if_its_half_is() -> None:
    assert made(1.0).ok
    assert made(1.0, made(1.0)).ok
    assert not made(1.0, made(0.5)).ok
    assert not made(4.0, made(1.0)).ok
    assert not replace(made(1.0), evidence=evidence(multiple(float("nan")))).ok


def test_what_is_not_judged_is_called_neither_right_nor_wrong() -> None:
    unjudged = replace(made(2.0), evidence=evidence(multiple(2.0), weight=0.0))
    assert (unjudged.judged, made(4.0).judged) == (False, True)
    assert str(unjudged).startswith("gradient accumulation: not judged")
    assert str(made(4.0)).startswith("gradient accumulation: WRONG")


def test_factor_and_tolerance_are_those_of_the_evidence() -> None:
    assert (made(4.0).factor, made(4.0).tolerance) == (4.0, 1e-5)

"""The homogeneous gradient: each verdict from typed-in errors, and the two laws on a few nets."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.homogeneous_gradient import CASES, SCALES, derivatives, errors, judge, plot, run

USUAL = {"exact": 1e-15, "trained": 1e-15, "default": 1e-4, "head": 0.9, "plain": 5.0}


def typed_in(**changed: float) -> list[Measurement]:
    one: Measurement = {"c": list(SCALES)}
    for case in CASES:
        for order in ("gradient", "hessian"):
            one[f"{case}_{order}"] = [changed.get(f"{case}_{order}", USUAL[case])] * len(SCALES)
    return [one, one]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"default_gradient": 0.02}, Verdict.PARTLY),
        ({"default_hessian": 0.02}, Verdict.PARTLY),
        ({"exact_gradient": 1e-9}, Verdict.REFUTED),
        ({"trained_hessian": 1e-9, "default_hessian": 0.5}, Verdict.REFUTED),
        ({"head_hessian": 0.05}, Verdict.INCONCLUSIVE),
        ({"plain_gradient": 1e-15}, Verdict.SUPPORTED),  # shown, not judged
    ],
)
def test_the_worst_error_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_torchs_defaults_are_judged_at_usual_scales_only() -> None:
    measured = typed_in()
    for one in measured:
        one["default_gradient"] = [1.0 if c == 1e-6 else 1e-4 for c in SCALES]
    assert judge(measured).verdict is Verdict.SUPPORTED


def test_the_derivatives_are_those_of_a_loss_worked_out_by_hand() -> None:
    weights = [torch.tensor([3.0, 4.0], dtype=torch.float64)]

    def ratio(w: list[torch.Tensor]) -> torch.Tensor:
        return w[0][0] ** 2 / (w[0] ** 2).sum()

    gradient, product, *_ = derivatives(ratio, weights, 1.0, 0)
    torch.testing.assert_close(gradient, torch.tensor([96.0, -72.0], dtype=torch.float64) / 625)
    vector = torch.randn(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = 1e-6 * vector
    up, down = (derivatives(ratio, [weights[0] + s], 1.0, 0)[0] for s in (step, -step))
    torch.testing.assert_close(product, (up - down) / 2e-6, rtol=1e-6, atol=1e-9)


def test_a_loss_of_degree_one_is_found_out() -> None:
    weights = [torch.tensor([3.0, 4.0], dtype=torch.float64)]
    first, second = errors(lambda w: (w[0] ** 2).sum().sqrt(), weights, 0, (2.0,))
    assert first == pytest.approx([1.0])  # its gradient does not change: c g(cw) = 2 g(w)
    assert second == pytest.approx([1.0])


def test_a_short_run_keeps_both_laws_and_the_contrast_breaks_them() -> None:
    measured = run(0, "cpu", steps=3, scales=(0.1, 10.0))
    for order in ("gradient", "hessian"):
        assert max(measured[f"exact_{order}"] + measured[f"trained_{order}"]) < 1e-12
        assert min(measured[f"head_{order}"] + measured[f"plain_{order}"]) > 0.1


def test_the_figure_names_each_case_once() -> None:
    assert len(plot(typed_in()).axes[1].get_legend().get_texts()) == len(CASES)

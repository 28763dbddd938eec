"""The edge of stability: each verdict from typed-in products, and the sharpness against a dense Hessian."""

import pytest
import torch
from torch.autograd.functional import hessian

from truestep.lab import Measurement, Verdict
from truestep.lab._normalized import mean_losses, outputs, random_copies
from truestep.lab.claims.edge_of_stability import LOSSES, LRS, half_squares, images, judge, plot, run, sharpness


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"step": [0.0, 50.0]}
    for name, lrs in LRS.items():
        usual |= {f"{name}_exponent": -1.0, f"{name}_loss": [0.1] * len(lrs)}
        for i in range(len(lrs)):
            usual |= {f"{name}_{i}": 1.0 if i else 0.1, f"{name}_peak_{i}": 1.1, f"{name}_curve_{i}": [1.0, 5.0]}
    return [usual | changed, usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"entropy_3": 0.3}, Verdict.PARTLY),
        ({"squares_1": 1.3}, Verdict.PARTLY),
        ({"squares_1": 1.3, "entropy_3": 0.3}, Verdict.REFUTED),
        ({"squares_0": 0.6}, Verdict.INCONCLUSIVE),
        ({"entropy_0": 0.6}, Verdict.INCONCLUSIVE),
    ],
)
def test_the_products_decide(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_intervals_across_the_band_s_edge_tell_nothing() -> None:
    low, high = typed_in(squares_1=0.9, entropy_1=0.9)[0], typed_in(squares_1=1.4, entropy_1=1.4)[0]
    assert judge([low, high]).verdict is Verdict.INCONCLUSIVE


def test_the_reason_gives_lrs_and_peaks() -> None:
    reason = judge(typed_in()).reason
    assert "half squared error 1.00, 1.00, 1.00 at lr 0.1, 0.2, 0.4 (contrast, lr 0.02: 0.10)" in reason
    assert "1.10, 1.10, 1.10 at most" in reason


@pytest.mark.parametrize("name", list(LOSSES))
def test_power_iteration_finds_the_dense_hessian_s_eigenvalue_of_largest_size(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = random_copies(2, generator, "cpu", widths=(3,), dtype=torch.float64)
    with torch.no_grad():
        weights[1][1] *= 2.0  # two nets
    x, y = torch.randn(20, 64, generator=generator, dtype=torch.float64), torch.arange(20) % 10

    def one_loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([3 * 64, 10 * 3])
        return LOSSES[name](outputs([parts[0].view(1, 3, 64), parts[1].view(1, 10, 3)], x, torch.tanh), y)[0]

    gradients = torch.autograd.grad(LOSSES[name](outputs(weights, x, torch.tanh), y).sum(), weights, create_graph=True)
    v = [torch.randn(w.shape[1:], generator=generator, dtype=torch.float64).expand_as(w) for w in weights]
    found, _ = sharpness(weights, gradients, v, 150)
    for copy in range(2):
        dense = hessian(one_loss, torch.cat([w[copy].detach().flatten() for w in weights]))
        eigenvalues = torch.linalg.eigvalsh(dense)
        largest = eigenvalues[eigenvalues.abs().argmax()].item()
        assert found[copy] == pytest.approx(largest, rel=1e-3)


def test_half_squares_by_hand() -> None:
    answers = torch.zeros(1, 2, 10)
    answers[0, 1, 3] = 2.0
    assert half_squares(answers, torch.tensor([0, 3])).tolist() == [0.5]  # (1 + 1) / 2 samples / 2
    assert mean_losses(torch.zeros(1, 2, 10), torch.tensor([0, 3])).tolist() == pytest.approx([2.302585], rel=1e-5)


def test_a_share_of_the_labels_is_drawn_anew() -> None:
    (x, y), (same, drawn) = (images(share, torch.Generator().manual_seed(0), "cpu") for share in (0.0, 0.3))
    assert torch.equal(x, same)
    assert torch.equal(y[60:], drawn[60:])
    assert 40 < (y[:60] != drawn[:60]).sum() <= 60


def test_a_short_run_starts_below_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truestep.lab.claims.edge_of_stability.FIRST", 8)
    measured = run(0, "cpu", steps=50)
    assert measured["step"] == [0.0, 50.0]
    assert measured["squares_curve_0"][0] == pytest.approx(measured["squares_curve_3"][0], rel=1e-4)  # one start
    assert 0 < measured["entropy_0"] < 0.1
    for i, lr in enumerate(LRS["squares"]):
        assert measured[f"squares_{i}"] == pytest.approx(measured[f"squares_curve_{i}"][-1] * lr / 2)  # one late look


def test_the_figure_has_a_panel_for_each_loss() -> None:
    assert len(plot(typed_in()).axes) == len(LOSSES)

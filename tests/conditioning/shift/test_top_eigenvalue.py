"""Lanczos steps against all eigenvalues."""

import pytest
import torch
from torch import Tensor

from truestep.conditioning.shift import _top_eigenvalue
from truestep.conditioning.shift._top_eigenvalue import lanczos, top_eigenvalue

F64 = torch.float64


def covariance(rows: int, features: int, spread: float = 0.0) -> Tensor:
    """Of random rows, some features far larger than others."""
    x = torch.randn(rows, features, dtype=F64) * torch.logspace(0, -spread, features, dtype=F64)
    return torch.cov(x.T, correction=0)


CASES = {
    "few rows": lambda: covariance(5, 200),
    "two rows": lambda: covariance(2, 200),
    "many rows": lambda: covariance(600, 200),
    "the flattest": lambda: covariance(40_000, 200),
    "one far above": lambda: covariance(300, 200, spread=6),
    "tiny": lambda: 1e-30 * covariance(300, 200),
    "two at the top": lambda: torch.diag(torch.cat([torch.full((2,), 3.0), torch.linspace(0, 2.999, 198)]).to(F64)),
    "all the same": lambda: 2 * torch.eye(200, dtype=F64),
    "none positive": lambda: -covariance(600, 200),
    "one feature": lambda: torch.full((1, 1), 2.0, dtype=F64),
    "nothing": lambda: torch.zeros(200, 200, dtype=F64),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_last_of_all_eigenvalues(case: str) -> None:
    matrix = CASES[case]()
    assert lanczos(matrix) == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-9, abs=1e-40)


def test_of_few_rows_it_takes_as_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = covariance(5, 200)
    monkeypatch.setattr(_top_eigenvalue, "_STEPS", 6)
    assert lanczos(matrix) == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-12)


def test_where_the_steps_are_too_few_all_eigenvalues_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = covariance(600, 200)
    monkeypatch.setattr(_top_eigenvalue, "EXACT_BELOW", 200)
    monkeypatch.setattr(_top_eigenvalue, "_STEPS", 9)
    assert lanczos(matrix) is None
    assert top_eigenvalue(matrix) == float(torch.linalg.eigvalsh(matrix)[-1])


def test_small_matrices_are_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = covariance(600, 20)
    monkeypatch.setattr(_top_eigenvalue, "lanczos", lambda _: pytest.fail("it takes steps"))
    assert top_eigenvalue(matrix) == float(torch.linalg.eigvalsh(matrix)[-1])
    assert top_eigenvalue(matrix[:0, :0]) == 0


def test_the_start_is_the_same_each_time_and_the_random_state_is_left_alone() -> None:
    matrix, before = covariance(300, 200), torch.get_rng_state()
    assert lanczos(matrix) == lanczos(matrix)
    assert torch.equal(torch.get_rng_state(), before)

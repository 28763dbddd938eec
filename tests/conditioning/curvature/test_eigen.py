"""scipy's eigenvalues on products: sorted, counted, and dense where the matrix is small."""

import pytest
import torch

from truestep.conditioning.curvature._eigen import largest


@pytest.mark.parametrize("n", [6, 60])
def test_they_are_those_of_the_dense_matrix_by_sign_and_not_by_size(n: int) -> None:
    a = torch.randn(n, n, dtype=torch.float64)
    a = a + a.T - 5 * torch.eye(n, dtype=torch.float64)  # the largest by size is negative
    values, vectors = largest(lambda v: a @ v, torch.ones(n, dtype=torch.float64), 3, tolerance=1e-10)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(a).flip(0)[:3])
    torch.testing.assert_close(vectors @ a, values[:, None] * vectors, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(3, dtype=torch.float64))


def test_all_of_them_can_be_asked_for() -> None:
    d = torch.arange(20.0, dtype=torch.float64)
    values, _ = largest(lambda v: d * v, torch.ones(20, dtype=torch.float64), 20)
    torch.testing.assert_close(values, d.flip(0))


@pytest.mark.parametrize(
    ("values", "k"),
    [([5.0] * 4 + [2.0] * 3 + [1.0], 9), ([3.0] * 6, 3), ([-1.0] * 30 + [-1.5], 4), ([0.0] * 40, 2)],
)
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_each_eigenvalue_is_found_as_often_as_it_repeats(values: list[float], k: int, scale: float) -> None:
    torch.manual_seed(0)
    d = torch.cat([torch.tensor(values), -2 - torch.rand(60 - len(values)).sort().values]).double()
    q = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64)).Q
    found, vectors = largest(lambda v: q @ (d * (q.T @ v)), torch.randn(60, dtype=torch.float64), k, scale=scale)
    torch.testing.assert_close(found, d.sort(descending=True).values[:k], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_largest_eigenvalue_of_zero_is_found_where_the_usual_size_is_told() -> None:
    d = -torch.linspace(0, 5, 50, dtype=torch.float64)
    values, _ = largest(lambda v: d * v, torch.ones(50, dtype=torch.float64), 1, scale=3.0, tolerance=1e-6)
    assert abs(float(values)) < 1e-9


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_converge_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truestep.conditioning.curvature._eigen.RESTARTS", 1)
    d = torch.linspace(0, 1, 500, dtype=torch.float64)
    with pytest.raises(ValueError, match="did not converge in 1 restarts"):
        largest(lambda v: d * v, torch.ones(500, dtype=torch.float64), 1, tolerance=1e-12)

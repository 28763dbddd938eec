"""Two gradients as one angle and one length, and a gradient as a combination of others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import CASES, DTYPES, dense64

from truestep.loss.accumulation import _comparison
from truestep.loss.accumulation._comparison import compare, fit, products


def test_the_hand_worked_comparison() -> None:
    found = compare({"a": torch.tensor([3.0]), "b": torch.tensor([[0.0, 4.0]])}, {"a": torch.tensor([6.0])})
    assert (found.norm, found.reference_norm, found.factor, found.ratio) == (5.0, 6.0, 0.5, 5 / 6)
    assert found.cosine == pytest.approx(0.6)
    assert found.relative_error == pytest.approx(5 / 6)
    assert found.turned == pytest.approx(0.8)


@given(power=st.integers(-10, 10), factor=st.floats(0.01, 100.0))
def test_a_multiple_is_found_whatever_the_scale(power: int, factor: float) -> None:
    r = torch.randn(50, dtype=torch.float64) * 10.0**power
    found = compare({"w": factor * r}, {"w": r})
    assert found.ratio == pytest.approx(factor)
    assert found.factor == pytest.approx(factor)
    assert found.cosine == pytest.approx(1.0)
    assert found.relative_error == pytest.approx(abs(factor - 1), rel=1e-12, abs=1e-14)
    assert found.turned < 1e-15


@pytest.mark.parametrize("turn", [1e-3, 1e-7, 1e-11])
def test_a_small_turn_keeps_its_digits_beside_a_large_factor(turn: float) -> None:
    r = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = compare({"w": torch.tensor([4.0, 4.0 * turn], dtype=torch.float64)}, {"w": r})
    assert found.turned == pytest.approx(turn, rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_written_out_for_any_layout(name: str) -> None:
    vectors = CASES[name]()
    found = products([{"w": x} for x in vectors])
    flat = torch.stack([dense64(x).reshape(-1) for x in vectors])
    torch.testing.assert_close(found, flat @ flat.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_made_in_float64(dtype: torch.dtype) -> None:
    r = torch.full((5000,), 1.5, dtype=dtype)
    assert compare({"w": r}, {"w": r}).norm == pytest.approx((5000 * 2.25) ** 0.5, rel=1e-14)


def test_a_cut_into_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, r = {"w": torch.randn(13, 3), "b": torch.randn(2)}, {"w": torch.randn(13, 3), "b": torch.randn(2)}
    whole = products([a, r], minus=0.3)
    monkeypatch.setattr(_comparison, "CHUNK", 5)
    torch.testing.assert_close(products([a, r], minus=0.3), whole)


def test_what_has_no_gradient_counts_as_zero_on_both_sides() -> None:
    found = compare({"a": torch.ones(2)}, {"b": torch.ones(3)})
    assert (found.cosine, found.factor) == (0.0, 0.0)
    assert found.relative_error == pytest.approx((5 / 3) ** 0.5)
    empty = compare({}, {})
    assert empty.norm == empty.reference_norm == 0.0
    assert empty.relative_error != empty.relative_error


def test_nan_makes_every_figure_nan_or_inf_and_none_small() -> None:
    found = compare({"w": torch.tensor([1.0, torch.nan])}, {"w": torch.ones(2)})
    assert not found.relative_error <= 1.0
    assert not found.turned <= 1.0


# --- combinations


def parts(k: int, n: int = 40) -> list[dict[str, torch.Tensor]]:
    return [{"w": torch.randn(n, dtype=torch.float64)} for _ in range(k)]


@given(k=st.integers(1, 12))
def test_the_weights_of_a_combination_are_found(k: int) -> None:
    made, weights = parts(k), torch.rand(k, dtype=torch.float64) + 0.1
    found = fit({"w": sum(c * part["w"] for c, part in zip(weights, made, strict=True))}, made)
    assert found.weights == pytest.approx(weights.tolist())
    assert found.outside < 1e-6


def test_the_weights_do_not_depend_on_how_long_the_parts_are() -> None:
    made = [{"w": part["w"] * 10.0**i} for i, part in zip((-2, 0, 2), parts(3), strict=True)]
    found = fit({"w": sum(part["w"] for part in made)}, made)
    assert found.weights == pytest.approx([1.0] * 3, rel=1e-6)


def test_the_part_outside_has_its_share() -> None:
    x, y, z = torch.eye(3)
    found = fit({"w": 3 * x + 4 * z}, [{"w": x}, {"w": y}])
    assert found.weights == pytest.approx([3.0, 0.0])
    assert found.outside == pytest.approx(0.8)


def test_the_mean_is_told_apart_from_other_weights() -> None:
    made = parts(3)
    mean = {"w": sum(part["w"] for part in made) / 3}
    found = fit({"w": 2.5 * mean["w"]}, made)
    assert found.mean_factor == pytest.approx(2.5)
    assert found.mean_error < 1e-6
    assert fit(made[0], made).mean_error > 0.1


def test_parts_that_are_alike_have_no_weights_but_a_mean_and_an_outside() -> None:
    (one,) = parts(1)
    found = fit(one, [one, one])
    assert found.weights is None
    assert found.mean_error < 1e-6
    assert found.outside < 1e-6


def test_a_part_of_zero_has_weight_zero() -> None:
    one, two = parts(2)
    found = fit({"w": one["w"] + two["w"]}, [one, {"w": torch.zeros(40)}, two])
    assert found.weights == pytest.approx([1.0, 0.0, 1.0])


def test_parts_that_cancel_say_by_how_much() -> None:
    found = fit({"w": torch.tensor([0.0, 0.1])}, [{"w": torch.tensor([1.0, 0.1])}, {"w": torch.tensor([-1.0, 0.1])}])
    assert found.cancelled == pytest.approx(1.01**0.5 / 0.1)


def test_a_part_that_is_nan_leaves_everything_unknown() -> None:
    found = fit({"w": torch.ones(2)}, [{"w": torch.tensor([1.0, torch.nan])}])
    assert found.weights is None
    assert found.outside != found.outside

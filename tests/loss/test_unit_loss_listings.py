"""What the source's two listings print, and the exponents of what they do not show."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.scripts import example

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "unit_loss.py"

# p of norm ~ s**p. The norm is ||J^T e|| / ||e||^2: 1/s where only the residual e grows; s**0 where a model that is
# homogeneous in its inputs has its Jacobian grow as well; tanh lies between, as its saturated units lose theirs.
EXPONENTS = {
    ("inputs and targets", "linear"): 0.0,
    ("inputs and targets", "ReLU MLP"): -0.03,
    ("inputs and targets", "tanh MLP"): -0.54,
    ("inputs and targets", "MLP + BN"): -1.05,
    ("targets", "linear"): -1.04,
    ("targets", "ReLU MLP"): -1.04,
    ("targets", "tanh MLP"): -1.02,
    ("targets", "MLP + BN"): -1.05,
}


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    with example("unit_loss") as module:
        yield module


def test_every_row_and_column_has_its_exponent(script: Any) -> None:
    assert set(EXPONENTS) == {(scaled, model) for scaled in script.SCALED[:2] for model in script.MODELS}


@pytest.mark.parametrize(("scaled", "model"), EXPONENTS)
def test_the_norm_follows_the_error_with_this_exponent(scaled: str, model: str, script: Any) -> None:
    assert script.exponent(model, scaled) == pytest.approx(EXPONENTS[scaled, model], abs=0.06)


@pytest.mark.parametrize("model", ["linear", "ReLU MLP"])
def test_with_the_inputs_alone_it_rises_and_then_stays(model: str, script: Any) -> None:
    one, ten, hundred, thousand = script.growth(model)
    assert ten > 2 * one
    assert thousand == pytest.approx(hundred, rel=0.01)


def test_behind_batch_norm_the_inputs_size_is_nothing(script: Any) -> None:
    found = script.growth("MLP + BN")
    assert found == pytest.approx([found[0]] * 4, rel=1e-3)  # BN's eps


def test_saturated_units_let_it_grow_on(script: Any) -> None:
    found = script.growth("tanh MLP")
    assert found == sorted(found)
    assert found[3] > 2 * found[2]


@pytest.mark.parametrize("power", [1, 2])
def test_it_grows_like_one_over_the_residual_whatever_the_loss(power: int, script: Any) -> None:
    norms = [script.shrinking_residual(t, power) for t in (1.0, 0.1, 0.01)]
    assert norms == pytest.approx([norms[0], 10 * norms[0], 100 * norms[0]], rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_listing_s_sum_is_a_hundred_means(seed: int, script: Any) -> None:
    torch.manual_seed(seed)
    mean, whole, shared = script.first_listing().values()
    assert whole / mean == pytest.approx(100, rel=1e-6)
    assert shared == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_second_listing_s_pairs_agree_and_its_draws_are_level_while_the_error_grows(seed: int, script: Any) -> None:
    torch.manual_seed(seed)
    rows = script.second_listing()
    assert [reduction for reduction, _, _ in rows] == ["sum", "mean"] * 5
    for (_, one, whole), (_, other, mean) in zip(rows[::2], rows[1::2], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
        assert whole == pytest.approx(100 * mean, rel=1e-5)
    norms = [norm for _, norm, _ in rows]
    assert max(norms) / min(norms) < 2
    assert rows[-1][2] / rows[1][2] > 20


def test_the_script_prints_claims_and_what_is_true(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script.main()
    printed = capsys.readouterr().out
    for words in ("gradient norm stays stable", "inputs and targets", "grows like 1/t", "Tally(scale='unit')"):
        assert words in printed

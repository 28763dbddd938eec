"""Unit loss under accumulation: each verdict from typed-in errors, and what a window's gradients are."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._training import digits_problem, plain_mlp
from truestep.lab.claims import unit_loss_accumulation
from truestep.lab.claims.unit_loss_accumulation import SPLITS, Window, judge, plot, run, window


def errors(**changed: float) -> list[Measurement]:
    usual: Measurement = {"loss": [2.3, 0.1], "sums": 1e-15}
    for name in SPLITS:
        usual |= {f"{name}_{key}": 0.01 for key in ("start", "worst", "end")}
        usual |= {f"{name}_least_cosine": 0.99, f"{name}_error": [0.01, 0.01], f"{name}_cosine": [1.0, 0.99]}
    return [usual | changed, usual | {name: value * 1.001 for name, value in changed.items()}]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"four_worst": 0.5}, Verdict.PARTLY),
        ({"ragged_start": 0.9, "ragged_worst": 0.9}, Verdict.PARTLY),
        ({"four_start": 0.06, "four_worst": 0.5}, Verdict.PARTLY),  # with the other one it holds
        ({"four_start": 0.06, "sixteen_start": 0.06, "four_worst": 0.5}, Verdict.REFUTED),
        ({"four_start": 0.06, "sixteen_start": 0.05, "four_worst": 0.5}, Verdict.INCONCLUSIVE),
        ({"sums": 1e-8}, Verdict.INCONCLUSIVE),
    ],
)
def test_the_start_with_equal_sizes_is_the_least_and_the_whole_training_the_most(
    changed: dict[str, float], verdict: Verdict
) -> None:
    assert judge(errors(**changed)).verdict is verdict


def trained_window(sizes: tuple[int, ...], repeat: bool = False) -> Window:
    generator = torch.Generator().manual_seed(0)
    problem, _ = digits_problem("cpu", torch.float64)
    index = torch.randint(len(problem.x), (sum(sizes),), generator=generator)
    if repeat:
        index = index[: sizes[0]].repeat(len(sizes))
    return window(plain_mlp((8,), generator, "cpu", torch.float64), problem, index, sizes)


@pytest.mark.parametrize("sizes", [(12,), (3, 3, 3, 3), (1, 2, 9)])
def test_sum_of_gradients_over_sum_of_losses_is_the_union_however_it_is_cut(sizes: tuple[int, ...]) -> None:
    found = trained_window(sizes)
    torch.testing.assert_close(found.sums, found.union, rtol=1e-9, atol=1e-12)


def test_the_recipe_is_the_union_where_all_micro_batches_are_alike() -> None:
    found = trained_window((4, 4, 4), repeat=True)
    torch.testing.assert_close(found.recipe, found.union, rtol=1e-9, atol=1e-12)


def test_the_recipe_is_not_the_union_where_sizes_or_losses_differ() -> None:
    for sizes in ((4, 4, 4), (1, 5, 6)):
        found = trained_window(sizes)
        assert (found.recipe - found.union).norm() > 0.01 * found.union.norm()


def test_the_error_grows_along_a_training_and_a_seed_gives_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_loss_accumulation, "WINDOWS", 5)
    measured = run(0, "cpu", stops=(0, 2))
    assert measured["four_end"] > measured["four_start"]  # type: ignore[operator]
    assert measured["sums"] < 1e-12  # type: ignore[operator]
    assert run(0, "cpu", stops=(0,)) == run(0, "cpu", stops=(0,))


def test_the_figure_runs_from_high_losses_to_low_ones() -> None:
    left, right = plot(errors()).axes
    assert left.xaxis_inverted()
    assert right.xaxis_inverted()
    assert [text.get_text() for text in right.get_legend().get_texts()] == [split.label for split in SPLITS.values()]

import pytest
import torch
from scipy.stats import ttest_rel

from truestep.compare.rank import rank_probabilities
from truestep.compare.rank._probabilities import resampled_levels


def grids(*rows: list[list[float]]) -> list[torch.Tensor]:
    return [torch.tensor(each, dtype=torch.float64) for each in rows]


def test_without_tuning_better_is_the_p_value_of_the_paired_t_test() -> None:
    noise = torch.randn(3, 1, 8, dtype=torch.float64) + torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1)
    probabilities = rank_probabilities(list(noise), count=20_000)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        p = ttest_rel(noise[i, 0], noise[j, 0], alternative="greater").pvalue
        assert float(probabilities.better[i, j]) == pytest.approx(p, abs=0.03)


def test_probabilities_of_each_rank_and_of_each_optimizer_add_up_to_one() -> None:
    probabilities = rank_probabilities(list(torch.randn(4, 3, 5, dtype=torch.float64)))
    ones = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(probabilities.ranks.sum(0), ones)
    torch.testing.assert_close(probabilities.ranks.sum(1), ones)
    torch.testing.assert_close(probabilities.better + probabilities.better.T, torch.ones(4, 4, dtype=torch.float64))


def test_a_clear_order_is_sure() -> None:
    probabilities = rank_probabilities(grids([[5.0, 5.1]], [[1.0, 1.1]], [[9.0, 9.1]]))
    order = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1]]).double()
    torch.testing.assert_close(probabilities.ranks, order, rtol=0, atol=0.01)


def test_equal_optimizers_share_their_places() -> None:
    probabilities = rank_probabilities(grids([[2.0, 2.0]], [[1.0, 1.0]], [[2.0, 2.0]]))
    assert probabilities.ranks.tolist() == [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]
    assert probabilities.better[0].tolist() == [0.5, 0.0, 0.5]


def test_what_the_seeds_have_in_common_makes_no_order_less_sure() -> None:
    hard = 100 * torch.randn(8, dtype=torch.float64)
    ours, theirs = hard[None], hard[None] + torch.linspace(0.9, 1.1, 8)
    assert rank_probabilities([ours, theirs]).better[0, 1] == 1.0


def test_a_narrow_optimum_counts_in_full_for_better_and_is_missed_by_the_draws_for_ranks() -> None:
    narrow, broad = grids([[0.0, 0.0], [9.0, 9.0], [9.0, 9.0]], [[1.0, 1.0]] * 3)
    probabilities = rank_probabilities([narrow, broad], count=20_000)
    assert probabilities.better[0, 1] == 1
    assert float(probabilities.ranks[0, 0]) == pytest.approx(1 - (2 / 3) ** 3, abs=0.01)


def test_the_best_value_is_chosen_anew_in_each_resample() -> None:
    swings = torch.tensor([[-1.0, 1.0, -1.0, 1.0], [1.0, -1.0, 1.0, -1.0]]).double()
    assert float(resampled_levels([swings], 2000, seed=0, draws=False).mean()) < -0.3  # either alone has mean 0


def test_levels_spread_as_students_distribution_does() -> None:
    losses = torch.randn(1, 8, dtype=torch.float64)
    levels = resampled_levels([losses], 50_000, seed=1, draws=False)[:, 0]
    error = float(losses.std()) / 8**0.5
    assert float(levels.std()) / error == pytest.approx((7 / 5) ** 0.5, rel=0.03)  # of t with 7 degrees: sqrt(7 / 5)

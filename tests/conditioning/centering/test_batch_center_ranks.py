"""Real gloo processes: batches in parts, one of them empty, are centred as the whole batch is."""

from pathlib import Path

import pytest
import torch
from tests.conditioning.centering.ranks import SIZES, part, passes, problem
from tests.gloo import seen_by_ranks
from torch import Tensor

Seen = list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder: Path = tmp_path_factory.mktemp("ranks")
    return seen_by_ranks("tests.conditioning.centering.ranks", len(SIZES), folder)


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    return passes(*problem(), None)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_every_rank_has_the_mean_and_the_running_mean_of_the_whole_batch(seen: Seen, whole: dict[str, Tensor]) -> None:
    for name in ("mean", "full running mean", "direct running mean"):
        for rank in seen:
            assert_close(rank[name], whole[name])


@pytest.mark.parametrize("name", ["output", "copy", "input", "evaluation"])
@pytest.mark.parametrize("statistics", ["full", "direct"])
def test_a_rank_has_its_part_of_outputs_and_input_gradients(
    seen: Seen, whole: dict[str, Tensor], statistics: str, name: str
) -> None:
    for i, rank in enumerate(seen):
        assert_close(rank[f"{statistics} {name}"], part(whole[f"{statistics} {name}"], i))


def test_images_are_centred_over_ranks_too(seen: Seen, whole: dict[str, Tensor]) -> None:
    for i, rank in enumerate(seen):
        assert_close(rank["images"], part(whole["images"], i))


@pytest.mark.parametrize("name", ["weight", "bias", "product"])
@pytest.mark.parametrize("statistics", ["full", "direct"])
def test_the_ranks_gradients_and_curvature_products_add_up_to_those_of_the_whole(
    seen: Seen, whole: dict[str, Tensor], statistics: str, name: str
) -> None:
    total = torch.stack([rank[f"{statistics} {name}"] for rank in seen]).sum(0)
    assert_close(total, whole[f"{statistics} {name}"])


def test_without_the_statistics_path_another_gradient_comes_back(whole: dict[str, Tensor]) -> None:
    assert float((whole["full weight"] - whole["direct weight"]).norm()) > 0.1 * float(whole["full weight"].norm())

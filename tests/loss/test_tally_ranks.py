"""The tally on two and three gloo processes with uneven shares: every rank steps with the union batch's gradient."""

from typing import Any

import pytest
import torch
from tests.gloo import seen_by_ranks
from tests.loss import ranks as script
from tests.loss.windows import batch, distance, net, wanted

from truestep.loss import Tally


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank of a world saw."""
    folder = tmp_path_factory.mktemp("tally")
    return seen_by_ranks("tests.loss.ranks", request.param, folder, str(request.param))


def union(per: str, scale: str, world: int) -> torch.Tensor:
    """The two windows' gradients from the union batch; the second window's reference is the first's mean."""
    model = net(torch.float64)
    found = [wanted(per, scale, model, script.window(world, seed)) for seed in range(script.WINDOWS)]
    if scale == "ref":
        first, second = (wanted(per, "mean", model, script.window(world, seed)) for seed in range(2))
        found = [found[0], second * (found[0].norm() / first.norm())]
    return torch.stack(found)


@pytest.mark.parametrize("scale", script.SCALES)
@pytest.mark.parametrize("per", script.PERS)
@pytest.mark.parametrize("way", ["ddp", "no_sync", "fsdp", "sum"])
def test_every_rank_has_the_union_batch_s_gradient(way: str, per: str, scale: str, ranks: list[Any]) -> None:
    expected = union(per, scale, len(ranks))
    for rank in ranks:
        for found, right in zip(rank[f"{way} {per} {scale}"], expected, strict=True):
            assert distance(found, right) < 1e-12


def test_the_count_in_advance_gives_the_same_without_finish(ranks: list[Any]) -> None:
    for rank in ranks:
        torch.testing.assert_close(rank["known"], union("token", "mean", len(ranks)), rtol=1e-10, atol=1e-14)


def test_gradients_that_nobody_reduced_add_up_to_the_union_s(ranks: list[Any]) -> None:
    expected = wanted("token", "unit", net(torch.float64), script.window(len(ranks), 0))
    for rank in ranks:
        assert distance(rank["unreduced"], expected) < 1e-12


def test_a_rank_that_lacks_the_whole_gradient_cannot_have_its_norm(ranks: list[Any]) -> None:
    assert {rank["refused"] for rank in ranks} == {
        "`scale='ngd'` needs the norm of the whole gradient: reduce it over the ranks, and say how in `reduced`"
    }


def test_a_rank_without_a_micro_batch_joins_the_sums(ranks: list[Any]) -> None:
    others = len(ranks) - 1
    for rank in ranks:
        assert rank["idle"].tolist() == [4 * others, 2 * others]


def test_the_mean_of_means_would_be_wrong_here() -> None:
    """The windows of this file are uneven enough to tell: what DDP does by itself is far off."""
    for world in (2, 3):
        model, whole = net(torch.float64), script.window(world, 0)
        means = torch.zeros(())
        for rank in range(world):
            for part in script.shares(world, rank, 0):
                if part.mask.any():
                    means = means + wanted("token", "mean", model, part) / (2 * world)
        assert distance(means, wanted("token", "mean", model, whole)) > 0.1


def test_one_process_is_a_world_of_one() -> None:
    model, whole = net(torch.float64), batch(24, dtype=torch.float64)
    for reduced in ("mean", "sum", "none"):
        tally = Tally("token", reduced=reduced)
        model.zero_grad()
        tally.backward(whole.losses(model), whole.mask, whole.weight)
        tally.finish(model.parameters())
        assert distance(script.gradients(model), wanted("token", "mean", model, whole)) < 1e-14

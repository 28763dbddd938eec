"""Weights in parts are controlled as whole ones are, and all ranks agree to the last bit."""

from itertools import product
from typing import Any

import pytest
import torch
from tests.gloo import seen_by_ranks
from tests.invariance.controls import ranks as script


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the gloo processes of `tests.invariance.controls.ranks` saw."""
    return seen_by_ranks("tests.invariance.controls.ranks", script.WORLD, tmp_path_factory.mktemp("control_ranks"))


@pytest.mark.parametrize(("way", "name"), [*product(script.WAYS[1:], script.CONTROLS)])
def test_parts_are_controlled_as_the_whole_is(way: str, name: str, ranks: list[Any]) -> None:
    expected = ranks[0][f"alone {name}"]
    one, other = (rank[f"{way} {name}"] for rank in ranks)
    for key in script.invariant(script.net()):
        assert torch.equal(one[key], other[key])
        torch.testing.assert_close(one[key], expected[key], rtol=0, atol=1e-12)
    assert one["lr"] == other["lr"] == pytest.approx(expected["lr"], rel=1e-11)


@pytest.mark.parametrize("way", script.WAYS)
def test_every_rank_saves_the_radii_of_all_units(way: str, ranks: list[Any]) -> None:
    one, other = (rank[f"{way} sphere per unit"] for rank in ranks)
    for name, radius in one["radii"].items():
        assert radius.shape == one[name].shape[:1]
        assert torch.equal(radius, other["radii"][name])
        torch.testing.assert_close(one[name].norm(dim=1), radius, rtol=1e-14, atol=0)


def test_the_controls_did_something(ranks: list[Any]) -> None:
    ends = [ranks[0][f"alone {name}"]["0.weight"] for name in script.CONTROLS]
    assert all(float((a - b).abs().max()) > 1e-3 for i, a in enumerate(ends) for b in ends[:i])

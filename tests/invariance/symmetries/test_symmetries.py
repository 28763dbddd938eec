"""What was found reads well, and every tensor has one label."""

from __future__ import annotations

from truestep.invariance.symmetries import Symmetries

FOUND = Symmetries(
    alone={"conv.weight": "group", "fc.weight": "unit"},
    joint=[{"a": 1, "b": 2, "c": -1, "d": -3}],
    no_effect=("fc.bias",),
    dead={"fc.weight": tuple(range(10))},
    sensitive=("out.bias",),
    residuals={"conv.weight": 2e-5, "fc.weight": 3e-4},
    joint_residuals=[1e-7],
    widths={"conv.weight": 2, "fc.weight": 1},
)


def test_every_tensor_has_a_label() -> None:
    assert FOUND.labels() == {
        "conv.weight": "group",
        "fc.weight": "unit",
        **dict.fromkeys("abcd", "joint"),
        "fc.bias": "no effect",
        "out.bias": "sensitive",
    }


def test_it_is_printed_with_what_each_is_worth() -> None:
    assert str(FOUND).splitlines() == [
        "2 tensors scale invariant alone, 1 joint groups",
        "  group of 2    conv.weight  up to 2e-05",
        "  unit          fc.weight  up to 3e-04",
        "  joint         a · b^2 / c / d^3  up to 1e-07",
        "  no effect     fc.bias",
        "  sensitive     out.bias",
        "  dead          fc.weight: units 0, 1, 2, 3, 4, 5, 6, 7 and 2 more",
    ]

"""A tuned loss: a seed has no say in its own lr."""

from truestep.lab._tuned import tuned


def test_the_others_choose() -> None:
    lucky = [[4.0, 5.0, 9.0], [9.0, 5.0, 9.0], [9.0, 5.0, 9.0]]  # the first seed alone likes the first lr
    assert tuned(lucky).losses == [5.0, 5.0, 5.0]
    assert tuned(lucky).column == 1
    assert not tuned(lucky).at_edge


def test_an_optimum_at_the_edge_is_told() -> None:
    assert tuned([[3.0, 2.0, 1.0]] * 2).at_edge
    assert tuned([[1.0, 2.0, 3.0]] * 2).at_edge

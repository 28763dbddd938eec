import torch
from hypothesis import given
from hypothesis import strategies as st

from truestep.compare.swap import swap_effects

nats = st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4)


def test_effects_of_two_seeds_worked_out_by_hand() -> None:
    y = torch.tensor([[[0.0, 1.0], [-2.0, 4.0]], [[-1.0, 1.0], [-7.0, 2.0]]], dtype=torch.float64)
    effects = swap_effects(y)
    assert effects.total.tolist() == [-7.0, 1.0]
    assert effects.length.tolist() == [(-2.0 - 6.0) / 2, (3.0 + 1.0) / 2]
    assert effects.direction.tolist() == [(-1.0 - 5.0) / 2, (0.0 - 2.0) / 2]
    assert effects.interaction.tolist() == [-4.0, -2.0]


@given(nats)
def test_length_and_direction_add_up_to_the_total(y: list[float]) -> None:
    effects = swap_effects(torch.tensor(y, dtype=torch.float64).view(2, 2))
    torch.testing.assert_close(effects.length + effects.direction, effects.total, rtol=0, atol=1e-9)


@given(nats)
def test_swapping_back_undoes_every_effect_and_keeps_the_interaction(y: list[float]) -> None:
    arms = torch.tensor(y, dtype=torch.float64).view(2, 2)
    there, back = swap_effects(arms), swap_effects(arms.flip(0, 1))
    for name in ("total", "length", "direction"):
        torch.testing.assert_close(getattr(there, name), -getattr(back, name), rtol=0, atol=1e-9)
    torch.testing.assert_close(there.interaction, back.interaction, rtol=0, atol=1e-9)


@given(nats)
def test_length_and_direction_change_roles_where_the_arms_do(y: list[float]) -> None:
    arms = torch.tensor(y, dtype=torch.float64).view(2, 2)
    assert torch.equal(swap_effects(arms).length, swap_effects(arms.T).direction)


def test_directions_that_are_the_same_have_no_effect() -> None:
    y = torch.tensor([[0.0, -2.3], [0.0, -2.3]], dtype=torch.float64)
    effects = swap_effects(y)
    assert (effects.length, effects.direction, effects.interaction) == (effects.total, 0.0, 0.0)

"""The two numbers of a twin, by hand and by the run that they stand for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truestep.invariance.controls._frame import (
    Frame,
    as_number,
    change_frame,
    like_setting,
    next_frame,
    renormalised,
    unless_skipped,
    unwound,
)

lrs, decays, momenta = st.floats(0.0, 0.5), st.floats(0.0, 0.5), st.floats(0.0, 0.95)
scales, radials = st.floats(0.1, 1.0), st.floats(0.0, 0.2)


def step(w: float, v: float, g: float, lr: float, decay: float, momentum: float) -> tuple[float, float]:
    """SGD's own step of one number."""
    v = momentum * v + g + decay * w
    return w - lr * v, v


@given(lrs, decays, momenta, scales, radials, st.floats(-1, 1))
def test_the_twin_s_step_is_the_run_s(
    lr: float, decay: float, momentum: float, scale: float, radial: float, g: float
) -> None:
    frame = Frame(scale, radial)
    after, twin_lr = next_frame(frame, lr, decay, momentum)
    if after.scale == 0.0:
        return
    w, v = 0.7, -0.3  # the twin's; the run's are read through the frame
    twin_w, twin_v = step(w, v, scale * g, twin_lr, 0.0, momentum)
    run_w, run_v = step(scale * w, v / scale + radial * scale * w, g, lr, decay, momentum)
    assert after.scale * twin_w == pytest.approx(run_w, rel=1e-9, abs=1e-12)
    if momentum:
        assert twin_v / after.scale + after.radial * after.scale * twin_w == pytest.approx(run_v, rel=1e-7, abs=1e-9)


def test_the_recursion_is_the_published_one_where_no_lr_is_zero() -> None:
    frame, last, ratios = Frame(), 1.0, []
    settings = [(0.1, 0.01), (0.05, 0.02), (0.2, 0.005), (0.1, 0.0)]
    for t, (lr, decay) in enumerate(settings):
        after, _ = next_frame(frame, lr, decay, 0.9)
        previous = settings[t - 1][0] if t else 1.0
        last = 1 - lr * decay + 0.9 * lr / previous * (1 - 1 / last)  # a_t of facts 1e
        ratios.append(after.scale / frame.scale / last)
        frame = after
    assert ratios == pytest.approx([1.0] * 4, rel=1e-14)


def test_numbers_and_tensors_give_the_same_bits() -> None:
    plain, lying = Frame(), Frame()
    for lr, decay in ((0.1, 0.01), (0.3, 0.02), (0.0, 0.5)):
        plain, one = next_frame(plain, lr, decay, 0.9)
        lying, two = next_frame(lying, torch.tensor(lr, dtype=torch.float64), decay, 0.9)
        assert (plain.scale, plain.radial, one) == (float(lying.scale), float(lying.radial), float(two))


@pytest.mark.parametrize("found", [0.0, 1.0])
@pytest.mark.parametrize("tensors", [False, True])
def test_a_skipped_step_stays_where_it_is(found: float, tensors: bool) -> None:
    before, after = Frame(1.0, 0.25), Frame(0.5, 0.75)
    if tensors:
        after = Frame(*(torch.tensor(x, dtype=torch.float64) for x in (0.5, 0.75)))
    got = unless_skipped(torch.tensor([found]), before, after)
    assert (float(got.scale), float(got.radial)) == ((1.0, 0.25) if found else (0.5, 0.75))
    assert isinstance(got.scale, torch.Tensor) == tensors
    assert unless_skipped(None, before, after) is after


@given(scales, radials, scales, radials)
def test_another_frame_is_the_same_run(scale: float, radial: float, new_scale: float, new_radial: float) -> None:
    w, v = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    run = scale * w, v / scale + radial * scale * w
    change_frame([(w, v)], Frame(scale, radial), Frame(new_scale, new_radial))
    again = new_scale * w, v / new_scale + new_radial * new_scale * w
    for mine, other in zip(again, run, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


@given(st.floats(1e-300, 1.0), st.booleans())
def test_a_renormalised_scale_lies_below_one_and_above_a_half(scale: float, tensor: bool) -> None:
    before = torch.tensor(scale, dtype=torch.float64) if tensor else scale
    after, power = renormalised(Frame(before, 3.0), 2.0)
    if scale >= 0.5:
        assert (float(after.scale), float(power)) == (scale, 0)
    else:
        assert 0.5 <= float(after.scale) < 1.0
        assert float(after.scale) * 2.0 ** -float(power) == scale
    assert after.radial == 3.0


@pytest.mark.parametrize("tensor", [False, True])
def test_the_decays_in_the_buffer_go_where_they_would_halve_the_weight(tensor: bool) -> None:
    def number(x: float) -> float | torch.Tensor:
        return torch.tensor(x, dtype=torch.float64) if tensor else x

    frame = Frame(number(0.5), number(3.0))
    for scale, radial in ((0.26, 3.0), (0.25, 0.0), (0.0, 0.0), (-1.0, 0.0)):
        found = unwound(frame, Frame(number(scale)))
        assert (float(found.scale), float(found.radial)) == (0.5, radial)
    assert unwound(rest := Frame(number(0.5)), Frame(number(0.1))) is rest


def test_a_setting_in_the_host_s_memory_is_a_plain_number_with_all_its_digits() -> None:
    assert as_number(torch.tensor([0.1])) == float(torch.tensor(0.1))
    assert like_setting(1 / 3, torch.tensor([0.1])).tolist() == [1 / 3]


def test_a_setting_keeps_its_form() -> None:
    number = torch.tensor(0.5, dtype=torch.float64)
    assert like_setting(0.5, 0.1) == 0.5
    assert like_setting(number, 0.1) is number
    assert like_setting(number, torch.tensor([0.1])).tolist() == [0.5]
    assert like_setting(number, torch.tensor([0.1])).dtype == torch.float32

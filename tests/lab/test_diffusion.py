"""The small diffusion model: its levels, the net read in two ways, its samples, their distance."""

import pytest
import torch

from truestep.lab._diffusion import LEVELS, Denoiser, energy_distance, levels, sample


def test_signal_and_noise_share_the_square_and_the_last_level_is_noise() -> None:
    signal, noise = levels("cpu")
    torch.testing.assert_close(signal + noise, torch.ones(LEVELS))
    assert signal[0].item() == pytest.approx(0.999)
    assert (signal.diff() < 0).all()
    assert signal[-1] < 1e-4


def denoiser(image: bool) -> Denoiser:
    return Denoiser(image, torch.Generator().manual_seed(0), "cpu")


def test_the_two_outputs_are_one_net_read_in_two_ways() -> None:
    by_noise, by_image = denoiser(False), denoiser(True)
    x, t = torch.randn(3, 64), torch.tensor([0, 50, 99])
    signal, noise = (share[t, None] for share in levels("cpu"))
    torch.testing.assert_close(by_image(x, t), (x - signal.sqrt() * by_noise(x, t)) / noise.sqrt())


def test_the_energy_distance_is_the_hand_worked_one_and_symmetric() -> None:
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0], [5.0]])
    between = (1 + 3 + 5 + 1 + 1 + 3) / 6
    expected = 2 * between - 2 - (2 + 4 + 2) / 3
    assert energy_distance(a, b) == pytest.approx(expected)
    assert energy_distance(b, a) == pytest.approx(expected)


def test_samples_of_a_net_that_knows_the_one_image_are_that_image() -> None:
    model = denoiser(True)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(model.leave.bias, 0.25)
    torch.testing.assert_close(sample(model, 4, torch.Generator().manual_seed(0)), torch.full((4, 64), 0.25))

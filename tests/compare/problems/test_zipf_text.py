"""The text's shares and repeats, and the entropy that no model can go below."""

import math

import pytest
import torch

from truestep.compare.problems import entropy_rate, zipf_text
from truestep.compare.problems._zipf_text import LAG, zipf


def test_the_shares_are_zipf_s_however_often_the_text_repeats_itself() -> None:
    for repeat in (0.0, 0.5):
        counts = torch.bincount(zipf_text(200_000, 16, repeat, seed=1), minlength=16) / 200_000
        torch.testing.assert_close(counts.double(), zipf(16), atol=0.01, rtol=0)


def test_a_character_is_the_one_two_before_it_as_often_as_asked() -> None:
    text, p = zipf_text(100_000, 16, 0.5, seed=2), zipf(16)
    same = (text[LAG:] == text[:-LAG]).double().mean().item()
    assert same == pytest.approx(0.5 + 0.5 * float((p**2).sum()), abs=0.01)  # repeated, or drawn alike


def test_the_rate_is_the_loss_of_the_model_that_knows_the_rule() -> None:
    text, p = zipf_text(100_000, 16, 0.5, seed=3), zipf(16)
    likelihood = 0.5 * (text[LAG:] == text[:-LAG]) + 0.5 * p[text[LAG:]]
    assert -likelihood.log().mean().item() == pytest.approx(entropy_rate(16, 0.5), abs=0.02)


def test_the_rate_by_hand_for_two_characters() -> None:
    # shares 2/3 and 1/3; after the first 5/6 and 1/6, after the second 1/3 and 2/3
    first = -(5 / 6 * math.log(5 / 6) + 1 / 6 * math.log(1 / 6))
    second = -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3))
    assert entropy_rate(2, 0.5) == pytest.approx(2 / 3 * first + 1 / 3 * second, rel=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_a_text_has_its_length_and_fully_repeated_it_is_its_first_characters(length: int) -> None:
    text = zipf_text(length, 50, 1.0, seed=4)
    assert text.tolist() == (text[:LAG].tolist() * length)[:length]


def test_the_first_characters_are_drawn_each_by_itself() -> None:
    assert max(zipf_text(8, 50, 1.0, seed).unique().numel() for seed in range(10)) == LAG

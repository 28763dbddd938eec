"""The GPT sees no future, and its problem's target lies where the text's entropy puts it."""

import math
from pathlib import Path

import pytest
import torch

from truestep.compare.problems import CharGPT, char_gpt, entropy_rate


def test_no_logit_depends_on_a_later_character() -> None:
    model = CharGPT(10, 8).double()
    x = torch.randint(10, (2, 8))
    changed = x.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 10
    before, after = model(x), model(changed)
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert ((after - before)[:, 5:].abs().amax((0, 2)) > 0).all()


def test_it_begins_near_the_loss_of_equal_shares() -> None:
    problem = char_gpt()
    assert problem.probe_loss(problem.build(0)) == pytest.approx(math.log(64), abs=0.05)


def test_the_target_asks_for_more_than_the_shares_and_for_less_than_can_be_known() -> None:
    assert entropy_rate(64, 0.5) + 0.4 < char_gpt().target < entropy_rate(64, 0.0) - 0.4


def test_targets_are_the_inputs_one_character_on() -> None:
    before, after = next(char_gpt().batches(0))
    assert torch.equal(before[:, 1:], after[:, :-1])


def test_a_file_gives_the_text_and_the_number_of_classes(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("to be or not to be " * 40, encoding="utf-8")
    problem = char_gpt(file, target=1, context=8, batch_size=4)
    x, _ = next(problem.batches(0))
    assert problem.build(0)(x).shape == (4, 8, len(set("to be or not")))


def test_a_file_without_a_target_is_refused() -> None:
    with pytest.raises(ValueError, match="`target` must be a loss"):
        char_gpt("text.txt")


def test_a_text_shorter_than_one_context_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("short", encoding="utf-8")
    with pytest.raises(ValueError, match="more than 32 characters"):
        char_gpt(tmp_path / "text.txt", target=1.0).probe()

"""A small GPT that predicts the next character, of generated text or of a file."""

from __future__ import annotations

from functools import partial
from os import PathLike, fspath
from typing import Final

from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from truestep.compare.problems._files import read_text
from truestep.compare.problems._losses import cross_entropy_loss
from truestep.compare.problems._problem import Problem
from truestep.compare.problems._seeds import seeded
from truestep.compare.problems._supervised import supervised
from truestep.compare.problems._zipf_text import entropy_rate, zipf_text

CLASSES: Final = 64
REPEAT: Final = 0.5
LENGTH: Final = 33_000  # characters of generated text
TEXT_SEED: Final = 0  # the text belongs to the problem, not to a seed


class CharGPT(nn.Module):
    """Embeddings of character and place, pre-norm blocks, a norm, and a head of its own: logits of the next character.

    Args:
        classes: Different characters.
        context: Characters that it sees at most.
        width: Of the embeddings.
        depth: Number of blocks.
        heads: Of the attention; they divide the width.

    Example:
        >>> import torch
        >>> CharGPT(64, 32)(torch.zeros(3, 10, dtype=torch.int64)).shape
        torch.Size([3, 10, 64])
    """

    def __init__(self, classes: int, context: int, *, width: int = 32, depth: int = 2, heads: int = 2) -> None:
        super().__init__()
        self.character = nn.Embedding(classes, width)
        self.place = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, bias=False)
        for table in (self.character, self.place, self.head):
            nn.init.normal_(table.weight, std=0.02)  # GPT-2's

    def forward(self, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length classes"]:
        """Logits after every character."""
        z = self.character(x) + self.place.weight[: x.shape[1]]
        return self.head(self.norm(self.blocks(z)))


class Block(nn.Module):
    """Causal attention and an MLP of four times the width, each added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, z: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """What goes to the next block."""
        q, k, v = self.qkv(self.norm(z)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(q, k, v, is_causal=True)  # [batch, heads, length, width / heads]
        z = z + self.out(seen.transpose(1, 2).flatten(2))
        return z + self.mlp(z)


def windows(text: Int64[Tensor, " length"], context: int) -> tuple[Tensor, Tensor]:
    """Pieces that do not overlap, and the same one character on.

    Raises:
        ValueError: If the text is shorter than one piece.

    Example:
        >>> import torch
        >>> windows(torch.arange(6), 2)
        (tensor([[0, 1], [2, 3]]), tensor([[1, 2], [3, 4]]))
    """
    count = (len(text) - 1) // context
    if count < 1:
        raise ValueError(f"`text` must have more than {context} characters, one `context`, found {len(text)}")
    end = count * context
    return text[:end].view(count, context), text[1 : end + 1].view(count, context)


def char_gpt(
    path: str | PathLike[str] | None = None,
    *,
    target: int | float | None = None,
    context: int = 32,
    batch_size: int = 16,
    device: str = "cpu",
) -> Problem:
    """A GPT of two blocks and width 32 on characters. Loss: cross-entropy in nats a character, mean.

    The generated text has 64 characters with shares after Zipf's law, and each repeats, half of the time, the one
    two before it: rare classes, on which Adam leaves SGD behind, and a least loss that is known (`entropy_rate`).

    Args:
        path: A text file in UTF-8 in place of the generated text.
        target: Loss that counts as solved; asked for with `path`. Of the generated text: midway between what the
            shares alone give and the least.
        context: Characters that the model sees.
        batch_size: Pieces of that length a step.
        device: Where data and model live.

    Raises:
        ValueError: If there is a `path` and no `target`.

    References:
        Kunstner et al. 2024, "Heavy-Tailed Class Imbalance and Why Adam Outperforms Gradient Descent on Language
        Models".

    Example:
        >>> problem = char_gpt()
        >>> before, after = next(problem.batches(0))
        >>> problem.build(0)(before).shape
        torch.Size([16, 32, 64])
    """
    if path is None:
        load, build = partial(read_generated, context), partial(build_gpt, CLASSES, context)
        known = (entropy_rate(CLASSES, 0.0) + entropy_rate(CLASSES, REPEAT)) / 2
    elif target is None:
        raise ValueError("`target` must be a loss in nats a character where `path` is given: only you know the text")
    else:
        load, build = partial(read_windows, fspath(path), context), partial(build_gpt_of, fspath(path), context)
        known = target
    goal = known if target is None else target
    loss = cross_entropy_loss
    return supervised(
        "char-gpt", load, build, loss, target=goal, max_steps=600, batch_size=batch_size, held_out=0.1, device=device
    )


def read_generated(context: int) -> tuple[Tensor, Tensor]:
    """The generated text, cut."""
    return windows(zipf_text(LENGTH, CLASSES, REPEAT, TEXT_SEED), context)


def read_windows(path: str, context: int) -> tuple[Tensor, Tensor]:
    """A file, cut."""
    return windows(read_text(path)[0], context)


def build_gpt(classes: int, context: int, seed: int) -> nn.Module:
    """The model for a known number of characters."""
    with seeded(seed):
        return CharGPT(classes, context)


def build_gpt_of(path: str, context: int, seed: int) -> nn.Module:
    """The model for the characters of a file."""
    return build_gpt(len(read_text(path)[1]), context, seed)

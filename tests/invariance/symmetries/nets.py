"""Small networks whose scaling symmetries were written down by hand, before the detector was run on them.

The reasoning uses four facts. A norm layer without eps gives the same for x and c x. ReLU gives c relu(x) for c x, GELU
does not. A linear layer's output scales with its input if its bias scales too. Softmax does not see what is added to
all logits alike. Of several generators of one space that with the least sum of |exponents| is written down; where two
are equally short both are symmetries, and only the space that they span is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, relu, scaled_dot_product_attention, silu
from torch.nn.utils.parametrizations import weight_norm

CLASSES, TOKENS = 5, 6
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A network, its data, and what is to be found."""

    build: Callable[[], nn.Module]
    batch: Callable[[int], Batch]
    alone: dict[str, str] = field(default_factory=dict)
    joint: list[dict[str, int]] = field(default_factory=list)
    no_effect: set[str] = field(default_factory=set)


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return cross_entropy(model(x).flatten(0, -2), y.flatten())


def vectors(size: int) -> Batch:
    return torch.randn(size, 7), torch.randint(CLASSES, (size,))


def images(size: int) -> Batch:
    return torch.randn(size, 2, 6, 6), torch.randint(CLASSES, (size,))


def texts(size: int) -> Batch:
    return torch.randint(11, (size, TOKENS)), torch.randint(11, (size, TOKENS))


def group(*up: str, down: tuple[str, ...] = ()) -> dict[str, int]:
    """Exponents 1 of `up` and -1 of `down`."""
    return dict.fromkeys(up, 1) | dict.fromkeys(down, -1)


def affine(name: str) -> tuple[str, str]:
    return f"{name}.weight", f"{name}.bias"


class MLP(nn.Module):
    """Two hidden layers with a norm (or nothing) between linear layer and ReLU."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.Identity, *, bias: bool, wrap=lambda layer: layer) -> None:
        super().__init__()
        self.fc1, self.fc2 = wrap(nn.Linear(7, 8, bias)), wrap(nn.Linear(8, 8, bias))
        self.norm1, self.norm2 = norm(8), norm(8)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm1(self.fc1(x)))
        return self.out(relu(self.norm2(self.fc2(x))))


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm1, self.norm2, self.out = nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm1(self.conv1(x)))
        return self.out(relu(self.norm2(self.conv2(x))).mean((2, 3)))


class ResNet(nn.Module):
    """A stem and one residual block, with GroupNorm of two channels a group."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.norm0, self.norm1, self.norm2 = (nn.GroupNorm(4, 8) for _ in range(3))
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm0(self.conv0(x)))
        branch = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
        return self.out(relu(x + branch).mean((2, 3)))


class Block(nn.Module):
    """Attention and an MLP (GELU, or SiLU-gated); norms before them (`pre`) or after the sums; queries, keys normed."""

    def __init__(self, width: int, *, pre: bool, qk_norm: bool, dropout: float, gated: bool) -> None:
        super().__init__()
        self.pre, self.heads = pre, 2
        self.q, self.k = (nn.Linear(width, width, bias=not qk_norm) for _ in range(2))
        self.v, self.o = (nn.Linear(width, width) for _ in range(2))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qn, self.kn = (nn.RMSNorm(width // 2) if qk_norm else nn.Identity() for _ in range(2))
        self.gate = nn.Linear(width, 2 * width) if gated else None
        self.dropout = nn.Dropout(dropout)

    def attend(self, x: Tensor) -> Tensor:  # [batch, tokens, width]
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = scaled_dot_product_attention(self.qn(q), self.kn(k), v, is_causal=True)
        return self.dropout(self.o(mixed.transpose(1, 2).flatten(-2)))

    def mlp(self, x: Tensor) -> Tensor:
        hidden = gelu(self.up(x)) if self.gate is None else silu(self.gate(x)) * self.up(x)
        return self.dropout(self.down(hidden))

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            x = x + self.attend(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.mlp(x))


class Transformer(nn.Module):
    """Two blocks over eleven words; small weights as in GPT-2, fresh biases zero."""

    def __init__(
        self,
        *,
        pre: bool = True,
        qk_norm: bool = False,
        tied: bool = False,
        dropout: float = 0.0,
        gated: bool = False,
        width: int = 8,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(11, width), nn.Parameter(0.02 * torch.randn(TOKENS, width))
        self.blocks = nn.ModuleList(
            Block(width, pre=pre, qk_norm=qk_norm, dropout=dropout, gated=gated) for _ in range(blocks)
        )
        self.norm, self.head = nn.LayerNorm(width) if pre else nn.Identity(), nn.Linear(width, 11, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


BLOCKS = ("blocks.0", "blocks.1")
# What writes to the residual stream of a pre-norm network: every reader has a norm before it, so all may grow together.
OUT = [f"{b}.{x}" for b in BLOCKS for x in ("o", "down")]
WRITERS = ("embed.weight", "place", *(name for x in OUT for name in affine(x)))
# Logits are q·k: what the queries gain the keys may lose. The keys' bias adds q·b to all logits of a query: no effect.
QK = [group(*affine(f"{b}.q"), down=(f"{b}.k.weight",)) for b in BLOCKS]
KEY_BIAS = {f"{b}.k.bias" for b in BLOCKS}
# Attention is linear in the values.
VO = [group(*affine(f"{b}.v"), down=(f"{b}.o.weight",)) for b in BLOCKS]
# A norm's affine pair against the weights that read it; the readers' biases stay, since what they are added to stays.
NORM1 = [group(*affine(f"{b}.norm1"), down=tuple(f"{b}.{x}.weight" for x in "qkv")) for b in BLOCKS]
NORM2 = [group(*affine(f"{b}.norm2"), down=(f"{b}.up.weight",)) for b in BLOCKS]
LAST = group(*affine("norm"), down=("head.weight",))


def after_norms() -> list[dict[str, int]]:
    """Post-LN: x + attend(x) must grow as x does, and x + mlp(x) too, for the next norm to undo it."""
    found = list[dict[str, int]]()
    for x, block in zip((("embed.weight", "place"), affine("blocks.0.norm2")), BLOCKS, strict=True):
        # v grows with x where its bias does, then o's output where its bias does; logits stay by q and k
        readers = (f"{block}.q.weight", f"{block}.k.weight")
        found.append(group(*x, f"{block}.v.bias", f"{block}.o.bias", down=readers))
        # GELU's input must stay (up against norm1), and down's output must grow with x
        found.append(group(*affine(f"{block}.norm1"), *affine(f"{block}.down"), down=(f"{block}.up.weight",)))
    return [*found, group(*affine("blocks.1.norm2"), down=("head.weight",))]


HIDDEN = group(*affine("norm1"))  # the next norm undoes the scale of its input, where no bias between them counts
TOP = group(*affine("norm2"), down=("out.weight",))
G, V = "parametrizations.weight.original0", "parametrizations.weight.original1"

CASES: dict[str, Case] = {
    # BatchNorm: each row of fc alone
    "MLP BN": Case(
        lambda: MLP(nn.BatchNorm1d, bias=False),
        vectors,
        {"fc1.weight": "unit", "fc2.weight": "unit"},
        [HIDDEN, TOP],
    ),
    # the mean takes the biases away
    "MLP BN bias": Case(
        lambda: MLP(nn.BatchNorm1d, bias=True),
        vectors,
        {"fc1.weight": "unit", "fc2.weight": "unit"},
        [HIDDEN, TOP],
        {"fc1.bias", "fc2.bias"},
    ),
    "CNN BN": Case(CNN, images, {"conv1.weight": "unit", "conv2.weight": "unit"}, [HIDDEN, TOP]),
    # the rows of one group share their norm; norm0 and norm2 write to one stream, read by conv1 (normed) and out
    "ResNet GN": Case(
        ResNet,
        images,
        {"conv0.weight": "group", "conv1.weight": "group", "conv2.weight": "group"},
        [HIDDEN, group(*affine("norm0"), *affine("norm2"), down=("out.weight",))],
    ),
    # LayerNorm: all units share one norm, so the tensor alone, and no row of it
    "MLP LN": Case(
        lambda: MLP(nn.LayerNorm, bias=False),
        vectors,
        {"fc1.weight": "tensor", "fc2.weight": "tensor"},
        [HIDDEN, TOP],
    ),
    # a bias is not taken away by LayerNorm: it must grow with its weight
    "MLP LN bias": Case(
        lambda: MLP(nn.LayerNorm, bias=True),
        vectors,
        {},
        [group(*affine("fc1")), group(*affine("fc2")), group(*affine("norm1"), down=("fc2.weight",)), TOP],
    ),
    # w = g v / ‖v‖ by rows: v's rows alone; then a ReLU network in g
    "MLP WeightNorm": Case(
        lambda: MLP(bias=True, wrap=weight_norm),
        vectors,
        {f"fc1.{V}": "unit", f"fc2.{V}": "unit"},
        [
            group(f"fc1.{G}", "fc1.bias", down=(f"fc2.{G}",)),
            group(f"fc2.{G}", "fc2.bias", down=("out.weight",)),
        ],
    ),
    # no norm at all: product pairs
    "MLP ReLU": Case(
        lambda: MLP(bias=True),
        vectors,
        {},
        [group(*affine("fc1"), down=("fc2.weight",)), group(*affine("fc2"), down=("out.weight",))],
    ),
    "pre-LN": Case(Transformer, texts, {}, [*QK, *VO, *NORM1, *NORM2, LAST, group(*WRITERS)], KEY_BIAS),
    # in train mode, with dropout: its masks do not depend on the weights
    "pre-LN dropout": Case(
        lambda: Transformer(dropout=0.2), texts, {}, [*QK, *VO, *NORM1, *NORM2, LAST, group(*WRITERS)], KEY_BIAS
    ),
    # the product is linear in up, and SiLU is not homogeneous: the norm before both answers for one of them alone
    "pre-LN gated": Case(
        lambda: Transformer(gated=True, blocks=1),
        texts,
        {},
        [
            QK[0],
            VO[0],
            NORM1[0],
            group(*affine("blocks.0.norm2"), down=("blocks.0.gate.weight", "blocks.0.up.weight")),
            group(*affine("blocks.0.up"), down=("blocks.0.down.weight",)),
            LAST,
            group(*(name for name in WRITERS if "blocks.1" not in name)),
        ],
        {"blocks.0.k.bias"},
    ),
    # the embedding writes to the stream and reads from it: what it gains as a head, the last norm must lose
    "pre-LN tied": Case(
        lambda: Transformer(tied=True),
        texts,
        {},
        [*QK, *VO, *NORM1, *NORM2, group(*WRITERS, down=affine("norm"))],
        KEY_BIAS,
    ),
    "post-LN": Case(lambda: Transformer(pre=False), texts, {}, [*QK, *VO, *after_norms()], KEY_BIAS),
    # each head's queries and keys are normed: the rows of a head alone, so norm1 has only v to answer for
    "QK-norm": Case(
        lambda: Transformer(qk_norm=True),
        texts,
        {f"{b}.{x}.weight": "group" for b in BLOCKS for x in "qk"},
        [
            *VO,
            *NORM2,
            *(group(f"{b}.qn.weight", down=(f"{b}.kn.weight",)) for b in BLOCKS),
            *(group(*affine(f"{b}.norm1"), down=(f"{b}.v.weight",)) for b in BLOCKS),
            LAST,
            group(*WRITERS),
        ],
    ),
}


def deep(layers: int, width: int) -> nn.Sequential:
    """A ReLU network of many layers without norm: a chain of product pairs."""
    widths = [7] + [width] * layers
    hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, CLASSES))

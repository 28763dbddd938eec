"""What is trained in the benchmarks: an MLP of 26 k parameters, a ResNet-18-like CNN, a GPT of 10 M parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, relu, scaled_dot_product_attention


@dataclass(frozen=True, slots=True)
class Job:
    """A training step over and over on one batch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], None]


def mlp() -> Job:
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )  # 26 122 parameters
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return job(model, optimizer, torch.randn(64, 64), torch.randint(10, (64,)))


def resnet() -> Job:
    optimizer = torch.optim.SGD((model := ResNet(32)).parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    return job(model, optimizer, torch.randn(16, 3, 32, 32), torch.randint(10, (16,)))


def gpt(tokens: int) -> Job:
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    shape = (4, tokens // 4) if tokens <= 256 else (8, tokens // 8)
    return job(model, optimizer, torch.randint(512, shape), torch.randint(512, shape))


def job(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Job:
    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
        optimizer.step()

    return Job(model, optimizer, step)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # [batch, tokens, width]
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [batch, heads, tokens, width / heads]
        attended = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + self.out(attended)
        return x + self.down(gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Twelve layers of width 256 over 512 tokens: 9.7 M parameters in 148 tensors."""

    def __init__(self, vocabulary: int = 512, width: int = 256, layers: int = 12, heads: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x))))


class Residual(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.skip = nn.Identity()
        if stride != 1 or channels != width:
            self.skip = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.norm2(self.conv2(relu(self.norm1(self.conv1(x))))) + self.skip(x))


class ResNet(nn.Module):
    """ResNet-18's blocks at a smaller width: 2.8 M parameters in 62 tensors at width 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        layers, channels = [], width
        for stage in range(4):
            for block in range(2):
                layers.append(Residual(channels, width << stage, 2 if block == 0 and stage else 1))
                channels = width << stage
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)).mean((2, 3)))


@dataclass(frozen=True, slots=True)
class Tasks:
    """A trunk of 4 x 512 ReLU units over 256 inputs with linear heads, batch 128: squared errors in units 1 to 100."""

    trunk: nn.Sequential
    heads: nn.ModuleList
    x: Tensor
    targets: list[Tensor]
    optimizer: torch.optim.Optimizer

    @property
    def last(self) -> nn.Linear:
        """The last shared layer."""
        found = self.trunk[-2]
        assert isinstance(found, nn.Linear)
        return found

    def losses(self, features: Tensor | list[Tensor]) -> list[Tensor]:
        """One mean squared error a task, of the features or of one view of them each."""
        each = features if isinstance(features, list) else [features] * len(self.heads)
        return [(head(z) - y).square().mean() for head, z, y in zip(self.heads, each, self.targets, strict=True)]


def tasks(number: int, outputs: int = 100) -> Tasks:
    torch.manual_seed(0)
    widths = (256, 512, 512, 512, 512)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    trunk, heads = nn.Sequential(*layers), nn.ModuleList([nn.Linear(512, outputs) for _ in range(number)])
    units = torch.logspace(0, 2, number)
    targets = [unit * torch.randn(128, outputs) for unit in units]
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=1e-4)
    return Tasks(trunk, heads, torch.randn(128, 256), targets, optimizer)

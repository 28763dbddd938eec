r"""Many normalised MLPs trained at once, one batched product for all: each has its own weights, batches, lr and decay.

The nets are scale invariant as source 004 wants them: batch norm without affine terms, and an output layer that is
drawn once and not trained. The step is its formula, :math:`w_{t+1} = (1 - \eta \lambda) w_t - \eta \nabla L(w_t; B_t)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.lab._digits import CLASSES, PIXELS, Digits, mlp

EPS: Final = 1e-5  # of the norm, torch's default


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Weights of R nets, stacked; `hidden` is trained in place, `head` is not.

    Args:
        hidden: One tensor [R, in, out] a layer.
        head: The output layer [R, in, classes].
        eps: Of the norm, one for each net [R, 1, 1].
    """

    hidden: list[Tensor]
    head: Float[Tensor, "nets units classes"]
    eps: Float[Tensor, "nets 1 1"]

    def __len__(self) -> int:
        return len(self.head)


def draw_ensemble(
    nets: int,
    widths: tuple[int, ...],
    generator: torch.Generator,
    *,
    head: float = 1.0,
    eps: float = EPS,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Ensemble:
    """Nets with normal weights of variance 1 / fan-in, as the lab's MLP has them.

    Args:
        nets: How many.
        widths: Units of each hidden layer.
        generator: Draws the weights, on the CPU.
        head: Factor on the output layer's weights.
        eps: The norm's.
        device: Where they live.
        dtype: Their number format.

    Example:
        >>> nets = draw_ensemble(3, (8,), torch.Generator())
        >>> forward(nets, torch.rand(3, 5, 64)).shape
        torch.Size([3, 5, 10])
    """
    sizes = (PIXELS, *widths, CLASSES)
    drawn = [
        (torch.randn(nets, fan_in, out, generator=generator, dtype=torch.float64) / fan_in**0.5).to(device, dtype)
        for fan_in, out in pairwise(sizes)
    ]
    hidden = [w.requires_grad_() for w in drawn[:-1]]
    return Ensemble(hidden, head * drawn[-1], torch.full((nets, 1, 1), eps, device=device, dtype=dtype))


def repeated(nets: Ensemble, times: int) -> Ensemble:
    """Copies of each net, one after the other: net i becomes nets i · times to (i + 1) · times - 1.

    Example:
        >>> nets = repeated(draw_ensemble(2, (8,), torch.Generator()), 3)
        >>> len(nets), bool((nets.hidden[0][0] == nets.hidden[0][2]).all())
        (6, True)
    """
    copies = [w.detach().repeat_interleave(times, 0).requires_grad_() for w in nets.hidden]
    return Ensemble(copies, nets.head.repeat_interleave(times, 0), nets.eps.repeat_interleave(times, 0))


def forward(nets: Ensemble, x: Float[Tensor, "nets batch 64"]) -> Float[Tensor, "nets batch classes"]:
    """Logits in training mode: each net normalises by its own batch."""
    return _layers(nets, x, x.shape[1])


@torch.no_grad()
def held_out_logits(nets: Ensemble, data: Digits) -> Float[Tensor, "nets test classes"]:
    """Logits of the test images, normalised by the statistics of all training images: BN refreshed exactly."""
    x = torch.cat([data.train_x, data.test_x]).expand(len(nets), -1, -1)
    return _layers(nets, x, len(data.train_x))[:, len(data.train_x) :]


def sgd_step(
    nets: Ensemble,
    x: Float[Tensor, "nets batch 64"],
    y: Int[Tensor, "nets batch"],
    lr: Float[Tensor, "nets 1 1"],
    weight_decay: Float[Tensor, "nets 1 1"],
) -> Float[Tensor, " nets"]:
    """One step of plain SGD with weight decay on the mean cross-entropy of each net; gives the losses before it."""
    logits = forward(nets, x)
    each = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
    losses = each.mean(1)  # [nets]
    gradients = torch.autograd.grad(losses.sum(), nets.hidden)  # no net reads another's weights
    with torch.no_grad():
        for w, g in zip(nets.hidden, gradients, strict=True):
            w.mul_(1 - lr * weight_decay).sub_(lr * g)
    return losses.detach()


def draw_batches(data: Digits, nets: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of its own for each net: images [nets, size, 64] and labels [nets, size]."""
    index = torch.randint(len(data.train_y), (nets, size), generator=generator)
    return data.train_x[index], data.train_y[index]


def column(values: list[float] | float, nets: Ensemble) -> Float[Tensor, "nets 1 1"]:
    """One number for each net, or the same for all, as `sgd_step` wants it.

    Example:
        >>> column(0.5, draw_ensemble(2, (8,), torch.Generator())).flatten()
        tensor([0.5000, 0.5000])
    """
    return torch.as_tensor(values, device=nets.head.device, dtype=nets.head.dtype).expand(len(nets)).view(-1, 1, 1)


def directions(nets: Ensemble) -> Float[Tensor, "nets weights"]:
    """The weights of each net with every unit's divided by their norm, all units as one vector of length 1."""
    units = [w.detach() / w.detach().norm(dim=1, keepdim=True) for w in nets.hidden]  # [nets, in, out]
    flat = torch.cat([u.flatten(1) for u in units], 1)
    return flat / flat.norm(dim=1, keepdim=True)


def as_module(nets: Ensemble, which: int) -> nn.Sequential:
    """One of the nets as the lab's MLP, a copy; its batch norm has no statistics yet.

    Example:
        >>> nets = draw_ensemble(3, (8,), torch.Generator())
        >>> x = torch.rand(3, 5, 64)
        >>> torch.allclose(as_module(nets, 1)(x[1]), forward(nets, x)[1], atol=1e-5)
        True
    """
    widths = tuple(w.shape[2] for w in nets.hidden)
    norm = partial(nn.BatchNorm1d, eps=nets.eps[which].item(), affine=False)
    model = mlp(widths, norm, torch.Generator(), device=str(nets.head.device), dtype=nets.head.dtype)
    linears = [module for module in model if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for linear, w in zip(linears, [*nets.hidden, nets.head], strict=True):
            linear.weight.copy_(w[which].T)
    return model


def _layers(nets: Ensemble, x: Tensor, measured: int) -> Tensor:
    """Logits of all rows, normalised by the statistics of the first `measured`."""
    for w in nets.hidden:
        x = torch.bmm(x, w)
        variance, mean = torch.var_mean(x[:, :measured], 1, correction=0, keepdim=True)  # [nets, 1, units]
        x = ((x - mean) * torch.rsqrt(variance + nets.eps)).relu()
    return torch.bmm(x, nets.head)

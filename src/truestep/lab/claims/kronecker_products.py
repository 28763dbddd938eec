r"""The eigenvalues of a Kronecker product are all products of the factors' eigenvalues.

From :math:`(A \otimes B)(r \otimes s) = A r \otimes B s`. We take K-FAC's factors of real layers. The GGN's own block,
which K-FAC approximates by the product, is the contrast: there the sentence need not hold and does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from truestep.lab._blocks import WIDTHS, Block, blocks, centred_digits, net, with_one
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES: Final = 400
SHOWN: Final = 60  # eigenvalues

EXACT: Final = 1e-12  # largest difference, in units of the largest eigenvalue, that counts as round-off
CONTRAST: Final = 1e-2  # least difference of the GGN's own block

LAYERS: Final = [f"{activation}_{layer}" for activation in ("logistic", "relu", "tanh") for layer in ("hidden", "head")]


def all_products(a: Tensor, b: Tensor) -> Tensor:
    """Every product of an entry of `a` and one of `b`, ascending.

    Example:
        >>> import torch
        >>> all_products(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0]))
        tensor([ 3.,  5.,  6., 10.])
    """
    return torch.outer(a, b).flatten().sort().values


def compared(block: Block) -> dict[str, float | list[float]]:
    """Differences in units of the largest eigenvalue: of the product, of its eigenvectors, of the GGN's block."""
    abar = with_one(block.a)
    (va, ra), (vs, rs) = torch.linalg.eigh(abar.T @ abar / len(abar)), torch.linalg.eigh(block.s)
    a, s = ra @ va.diag() @ ra.T, rs @ vs.diag() @ rs.T
    matrix, expected = torch.kron(a, s), all_products(va, vs)
    own, largest = torch.linalg.eigvalsh(block.ggn), expected.max()

    def off(r: Tensor) -> float:
        return float((matrix @ r - r * torch.outer(va, vs).flatten()).norm(dim=0).max() / largest)

    return {
        "values": float((torch.linalg.eigvalsh(matrix) - expected).abs().max() / largest),
        "vectors": off(torch.kron(ra, rs)),
        "swapped": float((matrix - torch.kron(s, a)).abs().max() / largest),
        "own": float((own - expected).abs().max() / largest),
        "products": (expected.flip(0)[:SHOWN] / largest).tolist(),
        "spectrum": (own.flip(0)[:SHOWN] / largest).tolist(),
    }


def run(seed: int, device: str, *, samples: int = SAMPLES) -> Measurement:
    """Of hidden layer and head of each net at the start."""
    out: Measurement = {}
    for activation in ("logistic", "relu", "tanh"):
        generator = torch.Generator().manual_seed(seed)
        x, _ = centred_digits(device, samples, generator)
        _, hidden, head = blocks(net(activation, WIDTHS, generator, device), x, "softmax")
        for layer, block in (("hidden", hidden), ("head", head)):
            out |= {f"{activation}_{layer}_{name}": value for name, value in compared(block).items()}
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Worst layer of the worst seed for what must be exact."""
    of = {name: [scalars(measurements, f"{layer}_{name}") for layer in LAYERS] for name in ("values", "vectors", "own")}
    worst = {name: max(map(max, found)) for name, found in of.items()}
    contrast = max(map(min, of["own"]))
    if contrast < CONTRAST:
        verdict = Verdict.INCONCLUSIVE
    else:
        verdict = Verdict.SUPPORTED if worst["values"] <= EXACT else Verdict.REFUTED
    swapped = min(min(scalars(measurements, f"{layer}_swapped")) for layer in LAYERS)
    reason = (
        f"The eigenvalues of K-FAC's A ⊗ S are the products to {worst['values']:.0e} of the largest, with r ⊗ s as"
        f" eigenvectors to {worst['vectors']:.0e}. Those of the GGN's own block differ from the products by up to"
        f" {worst['own']:.0%}. S ⊗ A, which torch's order of entries asks for, has the same eigenvalues in other places"
        f" (entries {swapped:.0%} or more apart), so they do not tell a mix-up."
    )
    intervals = {f"{layer}_own": t_interval(values) for layer, values in zip(LAYERS, of["own"], strict=True)}
    return Judgement(verdict, reason, intervals, worst)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Products and the GGN's own eigenvalues of the first seed."""
    figure, axes = panels(2)
    for axis, layer in zip(axes, ("logistic_head", "relu_hidden"), strict=True):
        for name, color, label in (("products", BLUE, "products: A ⊗ S"), ("spectrum", ORANGE, "the GGN's own block")):
            values = [value for value in curves(measurements, f"{layer}_{name}")[0] if value > EXACT]
            axis.plot(range(1, len(values) + 1), values, ".", ms=4, color=color, label=label)
        axis.set(yscale="log", xlabel="i", ylabel="eigenvalue / largest product", title=layer.replace("_", ", "))
        axis.axhline(1.0, color=GREY, lw=0.8, ls="--")
        axis.legend()
    return figure


CLAIM = Claim(
    name="kronecker_products",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slide “Internal Covariate Shift”",
    sentence=(
        "Therefore, if the eigenvalues of A are λ_i and the eigenvalues of B are ν_j, then the eigenvalues of A ⊗ B are"
        " the products λ_iν_j"
    ),
    threshold=(
        f"K-FAC factors of six layers in float64. SUPPORTED if all eigenvalues of A ⊗ S are the products within"
        f" {EXACT:.0e} of the largest; REFUTED if not (an identity cannot be PARTLY so); INCONCLUSIVE if those of"
        f" the GGN's own block, which is no such product, are within {CONTRAST:.0e} too."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)

"""A loss divided by itself: the two listings of its source, what they are said to show, and what is true.

`python examples/unit_loss.py` prints both, and how the gradient's norm really follows the size of the error.
Source: "The case for unit-normalized loss (with back-propagation)".
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from truestep.loss import unit_loss

BATCH, FEATURES, HIDDEN, OUTPUTS = 128, 128, 64, 10
SIZES = tuple(10 ** (k / 2) for k in range(7))  # 1 to 1000
SEEDS = 20

MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(FEATURES, OUTPUTS),
    "ReLU MLP": lambda: mlp(nn.ReLU()),
    "tanh MLP": lambda: mlp(nn.Tanh()),
    "MLP + BN": lambda: mlp(nn.BatchNorm1d(HIDDEN), nn.ReLU()),
}
SCALED = ("inputs and targets", "targets", "inputs")  # "inputs and targets" is what the second listing does


def mlp(*between: nn.Module) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), *between, nn.Linear(HIDDEN, OUTPUTS))


def gradient_norm(model: nn.Module, loss: Tensor) -> float:
    """Norm of the whole gradient."""
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return float(torch.stack([grad.norm() for grad in grads]).norm())


def first_listing() -> dict[str, float]:
    """Gradient norm of a linear layer's weight under three reductions of one squared error of 10 x 10 numbers."""
    model, x, y = nn.Linear(10, 10), torch.randn(10, 10), torch.randn(10, 10)
    losses = {
        "mean": mse_loss(model(x), y),
        "sum": mse_loss(model(x), y, reduction="sum"),
        "sum / (batch size * 10)": mse_loss(model(x), y, reduction="sum") / 100,
    }
    return {name: float(torch.autograd.grad(loss, model.weight)[0].norm()) for name, loss in losses.items()}


def second_listing() -> list[tuple[str, float, float]]:
    """Reduction, gradient norm and error of ten unit losses; every second one has new data, larger than before."""
    model, rows = nn.Linear(10, 10), list[tuple[str, float, float]]()
    x = y = torch.zeros(0)
    for i in range(10):
        if i % 2 == 0:
            x, y = torch.randn(10, 10) * (i + 1), torch.randn(10, 10) * (i + 1)
        reduction = "sum" if i % 2 == 0 else "mean"
        loss = mse_loss(model(x), y, reduction=reduction)
        (grad,) = torch.autograd.grad(loss / loss.item(), model.weight)
        rows.append((reduction, float(grad.norm()), loss.item()))
    return rows


def norms(model: nn.Module, scaled: str) -> list[float]:
    """Gradient norm of the unit loss where `scaled` is multiplied by each of `SIZES`."""
    x, y = torch.randn(BATCH, FEATURES), torch.randn(BATCH, OUTPUTS)
    found: list[float] = []
    for size in SIZES:
        inputs, targets = (size if part in scaled else 1.0 for part in ("inputs", "targets"))
        found.append(gradient_norm(model, unit_loss(mse_loss(model(inputs * x), targets * y))))
    return found


def slope(found: list[float]) -> float:
    """Exponent p of the power law s**p nearest to `found` at `SIZES`: least squares of the logarithms."""
    sizes, logs = torch.tensor(SIZES).log(), torch.tensor(found).log()
    centred = sizes - sizes.mean()
    return float((centred * logs).sum() / (centred * centred).sum())


def exponent(model: str, scaled: str, seeds: int = SEEDS) -> float:
    """How the norm of the unit loss's gradient follows the size of what is scaled: s**exponent, mean over seeds."""
    found: list[float] = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        found.append(slope(norms(MODELS[model](), scaled)))
    return statistics.mean(found)


def growth(model: str, seed: int = 0) -> list[float]:
    """Norms with the inputs alone multiplied by 1, 10, 100 and 1000."""
    torch.manual_seed(seed)
    return norms(MODELS[model](), "inputs")[::2]


def shrinking_residual(t: float, power: int) -> float:
    """Norm of the unit loss's gradient where the residual is t times what it was, at the same weights.

    The loss is the mean of |residual|**power: the norm grows like 1/t whatever the power.
    """
    torch.manual_seed(0)
    model, x, residual = nn.Linear(FEATURES, OUTPUTS), torch.randn(BATCH, FEATURES), torch.randn(BATCH, OUTPUTS)
    targets = model(x).detach() - t * residual
    return gradient_norm(model, unit_loss((model(x) - targets).abs().pow(power).mean()))


def print_listings() -> None:
    """Both listings, with what is said and what is so."""
    print("Listing 1: scaling the loss scales the gradient. True: sum = 100 x mean, for 10 x 10 numbers are compared.")
    for name, norm in first_listing().items():
        print(f"  {name:24s} {norm:10.5f}")
    print('\nListing 2: "Even as we increase the underlying error, the gradient norm stays stable."')
    for reduction, norm, error in second_listing():
        print(f"  unit-norm {reduction:5s} {norm:8.4f}   error = {error:10.3f}")
    print(
        "True of sum and mean: each pair shares its data, and its norm to rounding. The norm is level because the\n"
        "inputs grow with the targets and the model is linear; from draw to draw it varies by tens of per cent."
    )


def print_exponents() -> None:
    """What the norm follows when one thing at a time is scaled."""
    print(f"\nNorm of the gradient ~ s**p for s = 1 .. 1000, p of {SEEDS} seeds (0: stable, as claimed):")
    print(f"  {'scaled by s':20s}" + "".join(f"{model:>11s}" for model in MODELS))
    for scaled in SCALED[:2]:
        print(f"  {scaled:20s}" + "".join(f"{exponent(model, scaled):11.2f}" for model in MODELS))
    print("  (tanh: about -1/2 while some of its units are not yet saturated, -1 once all of them are)")
    print("\nInputs alone: it rises until they dwarf the biases, then stays; behind BN nothing changes; norms at s =")
    print(f"  {'':20s}{1:>9d}{10:>9d}{100:>9d}{1000:>9d}")
    for model in MODELS:
        print(f"  {model:20s}" + "".join(f"{norm:9.3f}" for norm in growth(model)))
    print("\nThe fit gets better, residual times t at the same weights: the norm grows like 1/t, without bound.")
    for power, name in ((2, "squared error"), (1, "absolute error")):
        print(f"  {name:20s}" + "".join(f"   t = {t:g}: {shrinking_residual(t, power):.3g}" for t in (1, 0.1, 0.01)))


def main() -> None:
    """Print all of it."""
    torch.manual_seed(0)
    print_listings()
    print_exponents()
    print(
        "\nSo: dividing a loss by itself is gradient descent on its logarithm. It takes out one factor on the whole\n"
        "loss and nothing else. Where only the loss's unit should not matter, Tally(scale='ref') does that and keeps\n"
        "the rest; over micro-batches, Tally(scale='unit') is the unit loss of the whole batch."
    )


if __name__ == "__main__":
    main()

r"""The gradient norm of a loss divided by itself stays stable as the error grows.

The source's listing multiplies inputs and targets of a linear layer by the same s. Then :math:`L \to s^2 L` and
:math:`\nabla L \to s^2 \nabla L`, so that the norm of :math:`\nabla L / L` indeed stays. But for a loss that is
homogeneous in the residual e, of any degree, :math:`\|\nabla L\| / L = \|J^\top l'(e)\| / l(e) \propto 1 / \|e\|` at a
given Jacobian J: larger errors make the unit loss's gradient smaller, smaller ones make it larger without bound. The
listing holds only since its J grows with s as well: a model 1-homogeneous in its inputs, without bias at work,
normaliser or saturation. The exponents here are slopes of log norm over log s from 10 to 1000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss, mse_loss, smooth_l1_loss

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PALETTE, panels
from truestep.lab._interval import t_interval
from truestep.lab._training import flat_gradient

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE: Final = 10  # samples, inputs and outputs, as in the source's listing
WIDTH: Final = 32  # hidden units where there are any
DRAWS: Final = 60  # of weights and data; norms are their geometric means
SCALES: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
TAIL: Final = 10.0  # slopes are taken from here on
RESIDUAL_TAIL: Final = 100.0  # of Huber's loss with a threshold of 1, whose residuals start near 1

STABLE: Final = 0.1  # the largest exponent that counts as none


class Way(NamedTuple):
    """What grows with the error: a label, and the factors of inputs and targets, as powers of s."""

    label: str
    inputs: int
    targets: int


WAYS: Final = {
    "both": Way("inputs and targets (the listing)", 1, 1),
    "targets": Way("targets", 0, 1),
    "inputs": Way("inputs", 1, 0),
}
MODELS: Final[dict[str, Callable[[], nn.Module]]] = {
    "linear": lambda: nn.Linear(SIZE, SIZE),
    "relu": lambda: _hidden(nn.ReLU()),
    "tanh": lambda: _hidden(nn.Tanh()),
    "batchnorm": lambda: _hidden(nn.BatchNorm1d(WIDTH), nn.ReLU()),
}
LOSSES: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "mse": mse_loss,
    "l1": l1_loss,
    "huber": smooth_l1_loss,
}


def _hidden(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(SIZE, WIDTH), *between, nn.Linear(WIDTH, SIZE))


def unit_norm(model: nn.Module, loss: Tensor) -> Tensor:
    """Norm of the gradient of the loss divided by itself."""
    model.zero_grad()
    (loss / loss.detach()).backward()
    return flat_gradient(model).norm()


def grown(name: str, way: Way, seed: int, device: str, draws: int) -> Float64[Tensor, " scales"]:
    """Unit gradient norms over the scales: geometric mean over draws of weights and data."""
    out: list[Tensor] = []
    for draw in range(draws):
        model, x, y = _draw(name, 1000 * seed + draw, device)
        norms = [unit_norm(model, mse_loss(model(x * s**way.inputs), y * s**way.targets)) for s in SCALES]
        out.append(torch.stack(norms).log())
    return torch.stack(out).mean(0).exp()  # [scales]


def residual(loss: Callable[[Tensor, Tensor], Tensor], seed: int, device: str, draws: int) -> Float64[Tensor, " s"]:
    """Unit gradient norms of the linear layer at fixed weights and inputs, each residual multiplied by s."""
    out: list[Tensor] = []
    for draw in range(draws):
        model, x, y = _draw("linear", 1000 * seed + draw, device)
        fitted = model(x).detach()
        norms = [unit_norm(model, loss(model(x), fitted + s * (y - fitted))) for s in SCALES]
        out.append(torch.stack(norms).log())
    return torch.stack(out).mean(0).exp()


def one_sample() -> tuple[list[float], list[float]]:
    """Cross-entropy of one sample in 10 classes: its loss, from sure and wrong to sure and right, and ‖∇ log L‖."""
    losses: list[float] = []
    norms: list[float] = []
    for margin in torch.linspace(-30.0, 20.0, 51, dtype=torch.float64):
        z = torch.zeros(1, SIZE, dtype=torch.float64)
        z[0, 0] = margin
        z.requires_grad_()
        loss = cross_entropy(z, torch.tensor([0]))
        (gradient,) = torch.autograd.grad(loss, z)
        losses.append(loss.item())
        norms.append((gradient.norm() / loss).item())
    return losses, norms


def slope(norms: Tensor, start: float = TAIL) -> float:
    """Exponent of a power law in s, by least squares in the logarithms over the scales from `start` on.

    Example:
        >>> slope(torch.tensor(SCALES, dtype=torch.float64) ** -2)
        -2.0
    """
    scales = torch.tensor(SCALES, dtype=torch.float64)
    kept = scales >= start
    u, v = scales[kept].log(), norms[kept].cpu().log()
    return round(((u - u.mean()) * (v - v.mean())).sum().item() / (u - u.mean()).square().sum().item(), 9)


def run(seed: int, device: str, *, draws: int = DRAWS) -> Measurement:
    """Exponents of the unit gradient norm: models by ways to grow, and losses with the residual alone."""
    out: Measurement = {"scale": list(SCALES)}
    for name in MODELS:
        for key, way in WAYS.items():
            norms = grown(name, way, seed, device, draws)
            out[f"{name}_{key}"] = slope(norms)
            out[f"{name}_{key}_norm"] = norms.tolist()
    for name, loss in LOSSES.items():
        norms = residual(loss, seed, device, draws)
        out[f"residual_{name}"] = slope(norms, RESIDUAL_TAIL)
        out[f"residual_{name}_norm"] = norms.tolist()
    out["entropy_loss"], out["entropy_norm"] = one_sample()
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The listing itself decides between REFUTED and the rest; all other ways to grow, whether it is general."""
    names = [name for name, value in measurements[0].items() if not isinstance(value, list)]
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    stable = {name: max(abs(i.low), abs(i.high)) <= STABLE for name, i in interval.items()}
    unstable = {name: min(abs(i.low), abs(i.high)) > STABLE and i.low * i.high > 0 for name, i in interval.items()}
    if unstable["linear_both"]:
        verdict = Verdict.REFUTED
    elif not stable["linear_both"]:
        verdict = Verdict.INCONCLUSIVE
    else:
        verdict = Verdict.SUPPORTED if all(stable.values()) else Verdict.PARTLY
    mean = {name: f"{round(i.mean, 2) + 0.0:.2f}" for name, i in interval.items()}  # no minus zero
    reason = (
        f"Inputs and targets multiplied by s: ‖∇L/L‖ goes as s^{mean['linear_both']} in a linear layer (the listing),"
        f" s^{mean['relu_both']} in a ReLU net, but s^{mean['tanh_both']} with tanh and s^{mean['batchnorm_both']}"
        f" with BatchNorm. Targets alone: s^{mean['linear_targets']} in a linear layer. The residual alone, at fixed"
        f" weights: s^{mean['residual_mse']} under MSE, s^{mean['residual_l1']} under L1,"
        f" s^{mean['residual_huber']} in Huber's tail: the norm falls as the error grows, and grows without bound as"
        f" the fit gets good."
    )
    return Judgement(verdict, reason, interval)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Unit gradient norm against the error's scale, the residual's scale, and one sample's cross-entropy."""
    figure, (left, middle, right) = panels(3)
    scales = curves(measurements, "scale")[0]
    dashes = {"linear": "-", "relu": "--", "tanh": "-.", "batchnorm": ":"}
    for color, (key, way) in zip((BLUE, ORANGE, GREEN), WAYS.items(), strict=True):
        for name, dash in dashes.items():
            label = way.label if name == "linear" else None
            left.plot(scales, _typical(measurements, f"{name}_{key}_norm"), dash, color=color, lw=1, label=label)
    for name, dash in dashes.items():
        left.plot([], [], dash, color=GREY, lw=1, label=name)
    left.set(title="MSE; multiplied by s:", xlabel="s")
    for color, name in zip(PALETTE, LOSSES, strict=False):
        exponent = t_interval(scalars(measurements, f"residual_{name}")).mean
        norms = _typical(measurements, f"residual_{name}_norm")
        middle.plot(scales, norms, "o-", ms=3, color=color, lw=1, label=f"{name}: s^{exponent:.2f}")
    middle.set(title="linear layer, residual multiplied by s", xlabel="s")
    right.plot(curves(measurements, "entropy_loss")[0], curves(measurements, "entropy_norm")[0], color=BLUE, lw=1)
    right.set(title="cross-entropy of one sample, 10 classes", xlabel="loss, nats", ylabel="‖∂L/∂logits‖ / L, 1/nat")
    for axis in (left, middle):
        axis.set(yscale="log", ylabel="‖∇(L / L)‖, 1/weight")
        axis.legend(fontsize=7, ncols=2 if axis is left else 1)
    for axis in (left, middle, right):
        axis.set(xscale="log")
        axis.grid(color=GREY, alpha=0.2, lw=0.5)
    left.set_ylim(top=left.get_ylim()[1] * 100)
    return figure


def _draw(name: str, seed: int, device: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A model with torch's usual weights, inputs and targets, standard normal."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # a module's own initialisation takes no generator
        model = MODELS[name]().to(device, torch.float64)
        x, y = torch.randn(2, SIZE, SIZE, dtype=torch.float64).to(device)
    return model, x, y


def _typical(measurements: Sequence[Measurement], name: str) -> list[float]:
    """Geometric mean of a curve over the seeds."""
    return torch.tensor(curves(measurements, name), dtype=torch.float64).log().mean(0).exp().tolist()


CLAIM = Claim(
    name="unit_loss_norm",
    source="000: The case for unit-normalized loss, after the second listing",
    sentence="Even as we increase the underlying error, the gradient norm stays stable.",
    threshold=(
        f"Stable is an exponent of ‖∇(L/L)‖ in s whose 95 % interval lies within ±{STABLE}. SUPPORTED if it is stable"
        f" in all four models however the error grows (inputs, targets, both) and with the residual alone under three"
        f" losses; PARTLY if in the listing's own case (linear layer, both) but not in all; REFUTED if not in the"
        f" listing's case; INCONCLUSIVE if that interval crosses ±{STABLE}."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)

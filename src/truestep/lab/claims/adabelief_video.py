r"""AdaBelief on Rosenbrock's and Beale's functions, without noise, as in the video of its authors.

Two questions. Does it walk Adam's path: how far are its points from the path of Adam at a larger lr, over the length of
its own? And does it walk so many times faster, throughout: how far is its loss curve from Adam's at the best such lr?
By `adabelief_growth` it should get faster the longer the gradient keeps its direction, so the factor is another for
every lr and function. The contrast is SignSGD, held against Adam in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from truestep.compare import AdaBelief, Problem, SignSGD
from truestep.compare.problems import beale, rosenbrock
from truestep.compare.speed._path import path_distance, path_length
from truestep.compare.speed._speed_test import percent
from truestep.compare.training import Curves, Replica, train
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._speed import Speed, speed_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS: Final = 1000
POINTS: Final = 100
SETTINGS: Final[dict[str, tuple[Callable[[], Problem], float]]] = {
    "rosenbrock_0.001": (rosenbrock, 1e-3),
    "rosenbrock_0.01": (rosenbrock, 1e-2),
    "beale_0.001": (beale, 1e-3),
    "beale_0.01": (beale, 1e-2),
}
DRAWN: Final = ("rosenbrock_0.001", "beale_0.001")
DRAWN_SEEDS: Final = 3
MULTIPLIERS: Final = tuple(10 ** (k / 8) for k in range(-4, 13))  # .3 to 32
ONE: Final = MULTIPLIERS.index(1.0)
PATH: Final = 0.02  # of the path's length: a distance that counts as none
SPEED: Final = 0.05  # nats: a distance between loss curves that counts as none, 5 % of the loss
ARMS: Final[dict[str, Callable[..., Optimizer]]] = {"belief": AdaBelief, "sign": SignSGD}


class Rival(NamedTuple):
    """An optimizer against Adam: its speed, how far its path is at that speed and at Adam's own, and its curves."""

    speed: Speed
    path: float
    path_at_one: float
    losses: list[float]
    fast: list[float]  # Adam's at the speed


def rival(problem: Problem, build: Callable[..., Optimizer], lr: float, seed: int, adam: Curves, steps: int) -> Rival:
    """Train an optimizer, and Adam at its speed; Adam's curves at all multiples of the lr are given."""
    model = problem.build(seed)
    other = train(problem, partial(build, lr=lr), [Replica(seed, seed)], steps=steps, points=POINTS, paths=True)
    speed = speed_of(problem.probe_loss(model), adam.losses, other.losses[0], MULTIPLIERS, adam.steps)
    replica = Replica(seed, seed, speed.multiplier)
    fast = train(problem, partial(Adam, lr=lr), [replica], steps=steps, points=POINTS, paths=True)
    start = torch.cat([p.detach().flatten() for p in model.parameters()]).float()
    walked, at_best, at_one = (_path(start, x, i) for x, i in ((other, 0), (fast, 0), (adam, ONE)))
    near, far = ((path_distance(walked, path) / path_length(walked)).item() for path in (at_best, at_one))
    return Rival(speed, near, far, other.losses[0].tolist(), fast.losses[0].tolist())


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:  # noqa: ARG001 (two numbers: on the CPU)
    """For each function and lr: factor, residual, and distance of the paths, of AdaBelief and of SignSGD."""
    out: Measurement = {}
    for name, (make, lr) in SETTINGS.items():
        problem, replicas = make(), [Replica(seed, seed, c) for c in MULTIPLIERS]
        adam = train(problem, partial(Adam, lr=lr), replicas, steps=steps, points=POINTS, paths=True)
        for arm, build in ARMS.items():
            found = rival(problem, build, lr, seed, adam, steps)
            out |= {f"{name}_{arm}_log10_factor": math.log10(found.speed.multiplier), f"{name}_{arm}_path": found.path}
            out |= {f"{name}_{arm}_residual": found.speed.residual, f"{name}_{arm}_path_at_one": found.path_at_one}
            if arm == "belief" and name in DRAWN:
                out |= {f"{name}_other": found.losses, f"{name}_fast": found.fast}
                out[f"{name}_adam"] = adam.losses[ONE].tolist()
    return out


def measured(measurements: Sequence[Measurement], arm: str, number: str) -> dict[str, Interval]:
    """One number of one optimizer, in each setting."""
    return {name: t_interval(scalars(measurements, f"{name}_{arm}_{number}")) for name in SETTINGS}


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The path first, then whether one factor is enough."""
    path, residual = (measured(measurements, "belief", number) for number in ("path", "residual"))
    factor, apart = (measured(measurements, "belief", number) for number in ("log10_factor", "path_at_one"))
    contrast, control = (measured(measurements, "sign", number) for number in ("path", "residual"))
    if all(interval.mean <= PATH for interval in contrast.values()):
        verdict = Verdict.INCONCLUSIVE
    elif all(interval.low > PATH for interval in path.values()):
        verdict = Verdict.REFUTED
    elif all(interval.high <= PATH for interval in path.values()):
        one_speed = all(interval.high <= SPEED for interval in residual.values())
        verdict = Verdict.SUPPORTED if one_speed else Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    intervals = {f"{name}_path": path[name] for name in SETTINGS}
    intervals |= {f"{name}_residual": residual[name] for name in SETTINGS}
    intervals |= {f"{name}_log10_factor": factor[name] for name in SETTINGS}
    intervals |= {f"{name}_path_at_one": apart[name] for name in SETTINGS}
    intervals |= {f"{name}_sign_path": contrast[name] for name in SETTINGS}
    intervals |= {f"{name}_sign_residual": control[name] for name in SETTINGS}
    return Judgement(verdict, _told(path, residual, factor, apart, contrast), intervals)


def _told(*numbers: dict[str, Interval]) -> str:
    path, residual, factor, apart, contrast = ({name: each[name].mean for name in SETTINGS} for each in numbers)
    settings = "; ".join(
        f"{_label(name)}: {10 ** factor[name]:.2g} times as fast, its path {_share(path[name])} of its length from"
        f" Adam's ({_share(apart[name])} at Adam's own lr; SignSGD's {_share(contrast[name])}), the loss"
        f" {percent(residual[name])} off"
        for name in SETTINGS
    )
    apart_in_time = [_label(name) for name in SETTINGS if residual[name] > SPEED]
    blind = [_label(name) for name in SETTINGS if contrast[name] <= PATH]
    out = f"AdaBelief against Adam at the best multiple of its lr, on {settings}."
    if apart_in_time:
        out += f" One factor is not enough on {' and '.join(apart_in_time)}: by adabelief_growth it grows on the way."
    if blind:
        out += f" SignSGD, too, walks Adam's path on {' and '.join(blind)}: there the path does not tell them apart."
    return out


def plot(measurements: Sequence[Measurement]) -> Figure:
    """The loss by step of some seeds: Adam, Adam sped up, AdaBelief."""
    figure, axes = panels(len(DRAWN))
    arms = {"adam": (GREY, "-", "Adam"), "fast": (BLUE, "-", "Adam, sped up"), "other": (ORANGE, "--", "AdaBelief")}
    for axis, name in zip(axes, DRAWN, strict=True):
        for arm, (color, dash, label) in arms.items():
            for i, curve in enumerate(curves(measurements, f"{name}_{arm}")[:DRAWN_SEEDS]):
                steps = [STEPS * (k + 1) / len(curve) for k in range(len(curve))]
                axis.plot(steps, curve, dash, color=color, lw=0.8, label=None if i else label)
        factor = 10 ** t_interval(scalars(measurements, f"{name}_belief_log10_factor")).mean
        axis.set(yscale="log", xlabel="step", ylabel="loss", title=f"{_label(name)}: {factor:.2g} times as fast")
    axes[0].legend(title=f"{DRAWN_SEEDS} seeds each")
    return figure


def _path(start: Tensor, found: Curves, index: int) -> Tensor:
    assert found.paths is not None
    return torch.cat([start.unsqueeze(0), found.paths[index]])


def _share(length: float) -> str:
    return f"{100 * length:.0f} %" if length > 0.1 else f"{100 * length:.2g} %"


def _label(name: str) -> str:
    function, lr = name.split("_")
    return f"{function.capitalize()}, lr {lr}"


CLAIM = Claim(
    name="adabelief_video",
    source="000: The case for unit-normalized loss, section “But why?”",
    sentence="from the video AdaBelief looks like it's Adam just sped up.",
    threshold=(
        f"Rosenbrock and Beale, lr 0.001 and 0.01, {STEPS} steps. SUPPORTED if on all four AdaBelief's path is within"
        f" {PATH:g} of its length from Adam's at the best multiple of the lr, and its loss within {SPEED:g} nats (root"
        f" mean square); PARTLY if the path is, and the loss is not on some: no one factor; REFUTED if the path is not"
        f" on any; INCONCLUSIVE otherwise, or if SignSGD's mean path is within {PATH:g} everywhere."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=8,
)

r"""Diffusion's gradients are not normalised over the noise levels, and normalising them level by level helps.

A denoiser learns all noise levels at once, :math:`x_t = \sqrt{\bar\alpha_t} x_0 + \sqrt{1 - \bar\alpha_t} \epsilon`,
with DDPM's loss :math:`\|\epsilon - \hat\epsilon\|^2`. Where the network gives :math:`\hat\epsilon`, each level's
loss starts at 1. Where it gives :math:`\hat x_0`, the same loss is
:math:`\bar\alpha_t / (1 - \bar\alpha_t) \|x_0 - \hat x_0\|^2`, and the levels differ by their signal-to-noise ratio.
Two normalisations of ten groups of levels stand against the plain mean: dividing by the group's loss in the first
batches, frozen, and dividing by the group's loss in the batch, as in unit loss. The source cites a video of which we
know this one sentence; what is judged is our reading of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float
from torch import Tensor

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._diffusion import LEVELS, Denoiser, energy_distance, sample
from truestep.lab._digits import PIXELS, digits
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._training import cosine, flat_gradient

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS: Final = 10  # of 10 levels each
EACH: Final = 20  # samples of each group in a batch
STEPS: Final = 1200
LRS: Final = (3e-3, 1e-2)  # of Adam, falling along a cosine
FIRST: Final = 20  # batches of the frozen reference
SAMPLES: Final = 1000
PROBE: Final = 300  # samples of each group for gradient norms and held-out losses

UNEVEN: Final = 10.0  # largest over smallest gradient norm of the groups that counts as an issue
LEARNT: Final = 0.1  # plain samples at more than this share of the mean digit's energy distance learnt nothing
GAIN: Final = 0.9  # a normalisation that cannot bring the energy distance to this share does not help

OUTPUTS: Final = ("noise", "image")  # what the network gives
RULES: Final = ("raw", "frozen", "unit")
NORMALISED: Final = ("frozen", "unit")


def losses(model: Denoiser, x: Tensor, each: int, generator: torch.Generator) -> Float[Tensor, " groups"]:
    """DDPM's loss of each group of levels, the mean of `each` images drawn from x."""
    count = GROUPS * each
    within = torch.randint(LEVELS // GROUPS, (GROUPS, each), generator=generator)
    t = (within + torch.arange(GROUPS)[:, None] * (LEVELS // GROUPS)).flatten().to(x.device)  # [count]
    clean = x[torch.randint(len(x), (count,), generator=generator)]
    epsilon = torch.randn(count, PIXELS, generator=generator).to(x.device)
    signal, noise = model.levels.signal[t, None], model.levels.noise[t, None]
    off = model(signal.sqrt() * clean + noise.sqrt() * epsilon, t) - epsilon
    return off.square().mean(1).view(GROUPS, each).mean(1)


def references(rule: str, each: Float[Tensor, " groups"], seen: list[Tensor]) -> Float[Tensor, " groups"]:
    """What the groups' losses are divided by."""
    if rule == "unit":
        return each.detach()
    if rule == "frozen" and len(seen) < FIRST:
        seen.append(each.detach())
    return torch.stack(seen).mean(0) if rule == "frozen" else torch.ones_like(each)


def gradient_norms(model: Denoiser, x: Tensor, divisor: Tensor, generator: torch.Generator) -> list[float]:
    """Norm of the gradient of each group's loss, divided as in the training."""
    each = losses(model, x, PROBE, generator)
    out: list[float] = []
    for loss, by in zip(each, divisor, strict=True):
        model.zero_grad()
        (loss / by).backward(retain_graph=True)
        out.append(flat_gradient(model).norm().item())
    return out


def train(model: Denoiser, x: Tensor, rule: str, lr: float, steps: int, generator: torch.Generator) -> Tensor:
    """Adam on the mean over groups of their losses, divided as the rule says; returns the last divisor [groups]."""
    optimizer = torch.optim.Adam(model.parameters(), lr)
    seen: list[Tensor] = []
    divisor = torch.ones(GROUPS, device=x.device)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * cosine([], step / steps)
        each = losses(model, x, EACH, generator)
        divisor = references(rule, each, seen)
        optimizer.zero_grad()
        (each / divisor).mean().backward()
        optimizer.step()
    return divisor


def follow(output: str, rule: str, lr: float, seed: int, device: str, steps: int) -> Measurement:
    """One training: gradient norms at start and end, held-out losses, and how far its samples are from digits."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device)
    x, held_out = 2 * data.train_x - 1, 2 * data.test_x - 1
    model = Denoiser(output == "image", generator, device)
    ones = torch.ones(GROUPS, device=device)
    first = losses(model, x, PROBE, generator).detach()
    start = gradient_norms(model, x, ones if rule == "raw" else first, generator)
    divisor = train(model, x, rule, lr, steps, generator)
    last = losses(model, x, PROBE, generator).detach() if rule == "unit" else divisor
    end = gradient_norms(model, x, last, generator)
    model.zero_grad()
    made = sample(model, SAMPLES, generator)
    return {
        "start": start,
        "end": end,
        "start_spread": max(start) / min(start),
        "end_spread": max(end) / min(end),
        "held_out": losses(model, held_out, PROBE, generator).tolist(),
        "train_distance": energy_distance(made, x),
        "distance": energy_distance(made, held_out),
    }


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Each output under each rule, at the lr whose samples are nearest to the training images."""
    data = digits(device)
    train_x, test_x = 2 * data.train_x - 1, 2 * data.test_x - 1
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(train_x.shape, generator=generator).argsort(0).to(device)  # [train, pixels]
    out: Measurement = {
        "real": energy_distance(train_x, test_x),
        "mean": energy_distance(train_x.mean(0).expand_as(train_x), test_x),  # the mean digit, always
        "shuffled": energy_distance(train_x.gather(0, order), test_x),  # each pixel right, the images not
    }
    for output in OUTPUTS:
        for rule in RULES:
            found = [follow(output, rule, lr, seed, device, steps) for lr in LRS]
            one = min(found, key=lambda each: each["train_distance"])  # pyright: ignore[reportArgumentType] (a number)
            out |= {f"{output}_{rule}_{key}": value for key, value in one.items()}
    return out


def gains(measurements: Sequence[Measurement]) -> dict[str, Interval]:
    """Logarithm of the energy distance over that of the plain mean, for each output and normalisation."""
    out: dict[str, Interval] = {}
    for output in OUTPUTS:
        plain = scalars(measurements, f"{output}_raw_distance")
        for rule in NORMALISED:
            its = scalars(measurements, f"{output}_{rule}_distance")
            out[f"{output}_{rule}"] = t_interval(
                [math.log(max(i, 1e-9) / max(p, 1e-9)) for i, p in zip(its, plain, strict=True)]
            )
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Is there an issue, and does one of the two normalisations mend it: for both outputs, for one, for none."""
    gain = gains(measurements)
    spread = {
        f"{o}_{when}_spread": t_interval(scalars(measurements, f"{o}_raw_{when}_spread"))
        for o in OUTPUTS
        for when in ("start", "end")
    }
    issue = {o: max(spread[f"{o}_start_spread"].low, spread[f"{o}_end_spread"].low) >= UNEVEN for o in OUTPUTS}
    mended = {o: issue[o] and any(gain[f"{o}_{r}"].high < 0 for r in NORMALISED) for o in OUTPUTS}
    useless = all(interval.low > math.log(GAIN) for interval in gain.values())
    distance = {
        f"{o}_{r}_distance": t_interval(scalars(measurements, f"{o}_{r}_distance")) for o in OUTPUTS for r in RULES
    }
    numbers = {name: scalars(measurements, name)[0] for name in ("real", "shuffled", "mean")}
    if max(distance[f"{o}_raw_distance"].high for o in OUTPUTS) > LEARNT * numbers["mean"]:
        verdict = Verdict.INCONCLUSIVE
    elif all(mended.values()):
        verdict = Verdict.SUPPORTED
    elif any(mended.values()):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.REFUTED if useless or not any(issue.values()) else Verdict.INCONCLUSIVE
    intervals = spread | distance | {f"{name}_log_gain": interval for name, interval in gain.items()}
    return Judgement(verdict, reason(intervals, numbers), intervals, numbers)


def reason(intervals: dict[str, Interval], numbers: dict[str, float]) -> str:
    """The sentence with the numbers."""
    told = {name: f"{interval.mean:.2g}" for name, interval in intervals.items()}
    distances = "; ".join(
        f"{output}: {told[f'{output}_raw_distance']} plain, {told[f'{output}_frozen_distance']} frozen,"
        f" {told[f'{output}_unit_distance']} unit"
        for output in OUTPUTS
    )
    return (
        f"Gradient norms of ten groups of noise levels differ by the factor {told['noise_start_spread']} at the start"
        f" and {told['noise_end_spread']} at the end where the net gives the noise,"
        f" {told['image_start_spread']} and {told['image_end_spread']} where it gives the image under the same loss."
        f" Energy distance of samples to held-out digits, net giving {distances} (the mean digit"
        f" {numbers['mean']:.2g}, digits with each pixel shuffled {numbers['shuffled']:.2g})."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Gradient norms by level under the plain mean, held-out loss by level over that of the plain mean, samples."""
    figure, (left, middle, right) = panels(3)
    level = [(g + 0.5) * LEVELS / GROUPS for g in range(GROUPS)]
    colors: dict[str, str] = {"raw": BLUE, "frozen": ORANGE, "unit": GREEN}
    for output, dash in zip(OUTPUTS, ("-", "--"), strict=True):
        for when, color in (("start", GREY), ("end", BLUE)):
            norms = torch.tensor(curves(measurements, f"{output}_raw_{when}")).log().mean(0).exp()
            left.plot(level, norms, f"o{dash}", color=color, lw=1, ms=3, label=f"net gives {output}, {when}")
        plain = torch.tensor(curves(measurements, f"{output}_raw_held_out"))
        for rule in NORMALISED:
            ratio = (torch.tensor(curves(measurements, f"{output}_{rule}_held_out")) / plain).log().mean(0).exp()
            middle.plot(level, ratio, f"o{dash}", color=colors[rule], lw=1, ms=3, label=f"net gives {output}, {rule}")
    middle.axhline(1.0, color=GREY, lw=0.8, ls=":")
    for i, (output, rule) in enumerate((o, r) for o in OUTPUTS for r in RULES):
        found = scalars(measurements, f"{output}_{rule}_distance")
        right.plot([i] * len(found), found, "o", ms=4, alpha=0.7, color=colors[rule])
    right.axhline(scalars(measurements, "shuffled")[0], color=GREY, lw=0.8, ls=":", label="pixels shuffled")
    left.set(title="plain mean", yscale="log", ylabel="‖∇L‖ of a group of levels, 1/weight")
    middle.set(title="held-out loss over the plain mean's", yscale="log", ylabel="ratio")
    right.set(title="samples", ylabel="energy distance to held-out digits", yscale="log")
    right.set_xticks(range(6), [f"{o}\n{r}" for o in OUTPUTS for r in RULES])
    for axis in (left, middle):
        axis.set(xlabel="noise level (0 clean, 100 noise)")
    for axis in (left, middle, right):
        axis.grid(color=GREY, alpha=0.2, lw=0.5)
        axis.legend(fontsize=7)
    return figure


CLAIM = Claim(
    name="diffusion_noise_levels",
    source="000: The case for unit-normalized loss, section “References?”",
    sentence="Mention of the unnormalized gradient issue in Diffusion",
    threshold=(
        f"An issue is a gradient norm that differs by {UNEVEN:.0f} or more between ten groups of noise levels, before"
        f" or after training under the plain mean; mended, if dividing each group's loss by its frozen or by its"
        f" present value lowers the energy distance of samples to held-out digits (interval of the log ratio below 0)."
        f" SUPPORTED if there is an issue and it is mended both where the net gives the noise and where it gives the"
        f" image; PARTLY if for one of them; REFUTED if there is none, or a gain to {GAIN} is excluded everywhere;"
        f" INCONCLUSIVE between, or if plain samples are not {1 / LEARNT:.0f} times nearer than the mean digit."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)

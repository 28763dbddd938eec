r"""Mixed nets of different starts disagree as often as two of the same start, which is not almost never.

Two draws from one distribution over classifiers differ wherever that distribution is not sure, so "almost the same
distribution" does not mean "no disagreement". What mixing makes vanish is the disagreement between starts less that
within one, which is half the squared :math:`\ell_2` distance of the two distributions and has no floor. Both are set
beside the source's prior :math:`2 e (1 - e)`, for nets of error e whose mistakes are independent. The nets are those of
`mixing_in_function_space`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves
from truestep.lab._figure import BLUE, GREY, ORANGE, PINK, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab.claims.mixing_in_function_space import COPIES, DECAYS, LATE, LR, STARTS, TIMES, at
from truestep.lab.claims.mixing_in_function_space import run as run_mixing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALMOST_ZERO: Final = 0.1  # of the prior
GONE: Final = 0.15  # share of the first gap between and within that counts as none


def run(seed: int, device: str) -> Measurement:
    """The measurement of `mixing_in_function_space`."""
    return run_mixing(seed, device)


def course(measurement: Measurement, arm: str) -> dict[str, list[float]]:
    """At each time: disagreement between and within, the prior 2e(1 - e), and the gap as a share of the first."""
    between, within, error = (curves([measurement], f"{arm}_{name}")[0] for name in ("between", "within", "error"))
    gap = [b - w for b, w in zip(between, within, strict=True)]
    return {
        "between": between,
        "within": within,
        "prior": [2 * e * (1 - e) for e in error],
        "gap": [g / gap[0] for g in gap],
        "first": [gap[0]],
    }


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Late disagreement as a share of the prior, and the late gap between and within as a share of the first."""
    seen = {arm: [course(m, arm) for m in measurements] for arm in DECAYS}
    late = {
        (arm, name): t_interval([at(found[name], *LATE) for found in seen[arm]])
        for arm in DECAYS
        for name in ("between", "within", "prior", "gap")
    }
    share = {
        arm: t_interval([at(found["between"], *LATE) / at(found["prior"], *LATE) for found in seen[arm]])
        for arm in DECAYS
    }
    first = t_interval([found["first"][0] for found in seen["slow"]])  # both arms start from the same nets
    vanishes = all(found.high < ALMOST_ZERO for found in share.values())
    stays = all(found.low > ALMOST_ZERO for found in share.values())
    alike = all(late[arm, "gap"].high < GONE for arm in DECAYS)
    parted = any(late[arm, "gap"].low > GONE for arm in DECAYS)
    if first.low <= 0:
        verdict = Verdict.INCONCLUSIVE
    elif vanishes and alike:
        verdict = Verdict.SUPPORTED
    elif stays and parted:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.PARTLY if stays and alike else Verdict.INCONCLUSIVE
    intervals = {f"{arm}_share": share[arm] for arm in DECAYS}
    intervals |= {f"{arm}_{name}": late[arm, name] for arm in DECAYS for name in ("between", "within", "prior", "gap")}
    return Judgement(verdict, told(intervals, stays and alike), intervals | {"first_gap": first})


def told(interval: dict[str, Interval], alike: bool) -> str:
    """The reason, with the numbers in it."""
    arms = "; ".join(
        f"{1 / (LR * decay):.0f} steps a time scale: late disagreement {interval[f'{arm}_between'].mean:.4f} between"
        f" starts, {interval[f'{arm}_within'].mean:.4f} within, where independent mistakes give"
        f" {interval[f'{arm}_prior'].mean:.4f}; of the first gap {100 * interval[f'{arm}_gap'].mean:.0f} % are left"
        for arm, decay in DECAYS.items()
    )
    shares = " and ".join(f"{100 * interval[f'{arm}_share'].mean:.0f} %" for arm in DECAYS)
    end = f"So nets disagree in {shares} of the prior, not almost never, but no more across than within."
    return f"{arms}. {end if alike else f'Nets of different starts disagree in {shares} of the prior.'}"


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Disagreement between and within and the prior against time, means over seeds; a panel for each decay."""
    figure, axes = panels(len(DECAYS))
    for axis, (arm, decay) in zip(axes, DECAYS.items(), strict=True):
        seen = [course(m, arm) for m in measurements]
        for name, color, dash in (("prior", GREY, "--"), ("between", ORANGE, "-"), ("within", BLUE, "-")):
            mean = [t_interval(v).mean for v in zip(*(found[name] for found in seen), strict=True)]
            axis.plot(TIMES, mean, dash, marker=".", color=color, label="2e(1 - e)" if name == "prior" else name)
        axis.axhline(0, color=PINK, lw=0.8, ls=":")
        axis.set(xlabel="steps · lr · decay", ylabel="probability of disagreement", ylim=(-0.002, None))
        axis.set(title=f"lr {LR:g}, decay {decay:g}")
    axes[0].legend()
    return figure


CLAIM = Claim(
    name="vanishing_disagreement",
    source="004: Li and Arora, blog post on normalized nets and the intrinsic LR (2020), “So what’s really going on?”",
    sentence=(
        "However, convergence to an equilibrium distribution in function space means that the probability of"
        " disagreement is almost 0, i.e., the distribution is almost the same regardless of the initialization! This is"
        " indeed what we experimentally find, to our big surprise."
    ),
    threshold=(
        f"A seed is one replicate: {len(STARTS)} starts of {COPIES} copies each; means of {LATE[0]:g} and {LATE[1]:g}"
        f" time scales, both lr · decay. (1) Disagreement between starts below {ALMOST_ZERO:g} of the source's prior"
        f" 2e(1 - e). (2) Its excess over disagreement within a start below {GONE:g} of that at the first. SUPPORTED if"
        f" both 95 % intervals say so; PARTLY if (2) holds and (1) fails; REFUTED if both fail; INCONCLUSIVE if an"
        f" interval crosses its bound, or if at the first the excess is not above 0."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)

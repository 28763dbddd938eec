r"""SignSGD's step has one length, whatever the loss does.

Each element moves by lr, or not at all where its gradient is exactly 0: :math:`\|u\| = \eta \sqrt{n (1 - z)}` for a
share z of zeros. So in linf the step is lr, and in l2 it varies as far as z does. Zeros are common where inputs are (a
dark pixel, a token that the batch does not have) or a ReLU is off, and the more so the smaller the batch. Besides,
the weights' number format has its say: in bfloat16 an lr of 1e-3 is less than the spacing of weights near 1, and is
rounded away or up. The contrast is SGD, whose step goes with the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from truestep.compare import Problem, SignSGD
from truestep.compare.problems import breast_cancer, char_gpt, digits_cnn, digits_logistic, digits_mlp
from truestep.core._mean_loss import mean_loss
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS: Final = 300
TEXT_STEPS: Final = 100
LR: Final = 1e-3  # of SignSGD and Adam
SGD_LR: Final = 0.1
EXACT: Final = 1e-3  # off lr √(n(1 - z)), relative: float32 weights are rounded to 1e-7, steps are 1e-3
CONSTANT: Final = 1.25  # longest step over shortest, in l2, that counts as (mostly) constant
VARIES: Final = 2.0  # and the least that SGD's must be for the experiment to tell
DRAWN: Final = "mlp"  # the task whose steps are drawn
EVERY: Final = 4  # of them, so that the figure stays small


class Task(NamedTuple):
    """A problem, how long it is trained on, and its weights' format."""

    label: str
    problem: Callable[..., Problem]
    steps: int = STEPS
    dtype: torch.dtype = torch.float32


TASKS: Final = {
    "logistic": Task("logistic regression on digits", digits_logistic),
    "mlp": Task("MLP on digits at batch 64", digits_mlp),
    "small_batch": Task("MLP on digits at batch 4", partial(digits_mlp, batch_size=4)),
    "cnn": Task("BN CNN on digits", digits_cnn),
    "cancer": Task("MLP on breast cancer", breast_cancer),
    "text": Task("GPT on characters", char_gpt, TEXT_STEPS),
    "bfloat16": Task("MLP on digits in bfloat16", digits_mlp, dtype=torch.bfloat16),
}
PLAIN: Final = tuple(name for name, task in TASKS.items() if task.dtype == torch.float32)
ARMS: Final[dict[str, Callable[[Iterator[nn.Parameter]], Optimizer]]] = {
    "sign": partial(SignSGD, lr=LR),
    "signum": partial(SignSGD, lr=LR, momentum=0.9),
    "sgd": partial(SGD, lr=SGD_LR),
    "adam": partial(Adam, lr=LR),
}


class Lengths(NamedTuple):
    """Of each step: its l2 norm, its largest element, and the share of gradients that are exactly 0."""

    l2: Tensor
    largest: Tensor
    zeros: Tensor


def lengths(task: Task, arm: str, seed: int, device: str, steps: int) -> Lengths:
    """Train, and measure each step on the weights; in units of lr, l2 also of √n."""
    problem = task.problem(device=device)
    model, batches = problem.build(seed).to(task.dtype), problem.batches(seed)
    optimizer = ARMS[arm](model.parameters())
    lr = optimizer.param_groups[0]["lr"]
    rows: list[Tensor] = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss, _ = mean_loss(problem.loss_fn(model, _cast(next(batches), task.dtype)))
        loss.backward()
        before = _flat(p.detach() for p in model.parameters())
        optimizer.step()
        u = (_flat(p.detach() for p in model.parameters()) - before) / lr  # [weights]
        zeros = (_flat(p.grad for p in model.parameters() if p.grad is not None) == 0).double().mean()
        rows.append(torch.stack([u.square().mean().sqrt(), u.abs().max(), zeros]))
    return Lengths(*torch.stack(rows, 1).cpu())


def run(seed: int, device: str, *, steps: int | None = None) -> Measurement:
    """For each task and optimizer, longest over shortest step; for SignSGD its largest element and its zeros."""
    out: Measurement = {}
    for name, task in TASKS.items():
        for arm in ARMS:
            each = lengths(task, arm, seed, device, steps or task.steps)
            out[f"{name}_{arm}_spread"] = (each.l2.max() / each.l2.min()).item()
            if name == DRAWN:
                out[f"{name}_{arm}"] = each.l2[::EVERY].tolist()
            if arm == "sign":
                out[f"{name}_largest_off"] = (each.largest - 1).abs().max().item()
                out[f"{name}_zeros"] = each.zeros.mean().item()
                predicted = (1 - each.zeros).sqrt()
                out[f"{name}_off"] = (each.l2 / predicted - 1).abs().max().item()
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Longest over shortest step of SignSGD, task by task, against SGD's."""
    spread = {(task, arm): t_interval(scalars(measurements, f"{task}_{arm}_spread")) for task in TASKS for arm in ARMS}
    constant = {task: spread[task, "sign"].high <= CONSTANT for task in TASKS}
    varying = {task: spread[task, "sign"].low > CONSTANT for task in TASKS}
    if any(spread[task, "sgd"].low < VARIES for task in TASKS):
        verdict = Verdict.INCONCLUSIVE
    elif all(constant.values()):
        verdict = Verdict.SUPPORTED
    elif all(varying.values()):
        verdict = Verdict.REFUTED
    elif any(varying.values()) and any(constant.values()):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    zeros = {task: t_interval(scalars(measurements, f"{task}_zeros")) for task in TASKS}
    largest = {task: max(scalars(measurements, f"{task}_largest_off")) for task in TASKS}
    off = max(value for task in PLAIN for value in scalars(measurements, f"{task}_off"))
    groups = {
        f"within {CONSTANT} times": [task for task in TASKS if constant[task]],
        "more": [task for task in TASKS if varying[task]],
        "about that, so that it cannot be told,": [task for task in TASKS if not constant[task] and not varying[task]],
    }
    reason = f"{_grouped(groups, spread)} {_elementwise(zeros, largest, off)}"
    intervals = {f"{task}_{arm}_spread": each for (task, arm), each in spread.items()}
    intervals |= {f"{task}_zeros": each for task, each in zeros.items()}
    return Judgement(verdict, reason, intervals, {"off": off, **{f"{t}_largest_off": v for t, v in largest.items()}})


def _grouped(groups: dict[str, list[str]], spread: dict[tuple[str, str], Interval]) -> str:
    """Which tasks' steps are constant, with the numbers."""
    told = "; ".join(
        f"{word} on "
        + ", ".join(f"{TASKS[t].label} ({spread[t, 'sign'].mean:.2f}; SGD {spread[t, 'sgd'].mean:.1f})" for t in tasks)
        for word, tasks in groups.items()
        if tasks
    )
    return f"Longest over shortest step of SignSGD in l2: {told}."


def _elementwise(zeros: dict[str, Interval], largest: dict[str, float], off: float) -> str:
    """Why the length varies at all."""
    return (
        f"In float32 every element moves by lr (to {100 * max(largest[task] for task in PLAIN):.1g} %) or, where its"
        f" gradient is exactly 0, not at all: the length is lr·√(n(1 - z)) to {100 * off:.1g} %"
        f"{'' if off <= EXACT else ', which is off'}, and the share z is {100 * zeros['mlp'].mean:.0f} % on the MLP,"
        f" {100 * zeros['small_batch'].mean:.0f} % at batch 4, {100 * zeros['cancer'].mean:.0f} % without dark pixels."
        f" In bfloat16 some elements move by {1 + largest['bfloat16']:.1f} lr: where weights are coarser than the step,"
        f" it is rounded."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Left: the step's length by step on the MLP; right: longest over shortest, task by task."""
    figure, (left, right) = panels(2)
    colors = {"sgd": ORANGE, "adam": GREEN, "sign": BLUE}  # the last is on top
    labels = {"sign": "SignSGD", "sgd": "SGD", "adam": "Adam"}
    for arm, color in colors.items():
        for i, curve in enumerate(curves(measurements, f"{DRAWN}_{arm}")):
            start = curve[0]
            relative = [length / start for length in curve]
            steps = range(1, EVERY * len(curve) + 1, EVERY)
            left.plot(steps, relative, color=color, lw=0.6, label=None if i else labels[arm])
        means = [t_interval(scalars(measurements, f"{task}_{arm}_spread")).mean for task in TASKS]
        right.plot(means, range(len(TASKS)), "o", color=color, ms=4)
    left.set(yscale="log", xlabel="step", ylabel="‖step‖ / that of the first", title=TASKS[DRAWN].label)
    left.legend()
    right.axvline(CONSTANT, color=GREY, ls="--", lw=0.8, label="threshold")
    right.legend()
    right.set(xscale="log", xlabel="longest step / shortest, mean")
    right.set_yticks(range(len(TASKS)), [task.label for task in TASKS.values()])
    right.invert_yaxis()
    return figure


def _flat(tensors: Iterator[Tensor]) -> Tensor:
    return torch.cat([x.flatten().double() for x in tensors])


def _cast(batch: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in batch)


CLAIM = Claim(
    name="sign_step_constant",
    source="000: The case for unit-normalized loss, section “Brief intermezzo”",
    sentence="due to sign always being in {-1, 0, 1} the step-size is (mostly) constant.",
    threshold=(
        f"Longest over shortest step (l2) in {STEPS} steps of SignSGD ({TEXT_STEPS} on text), lr {LR:g}, on seven"
        f" tasks. SUPPORTED if at most {CONSTANT} on all; PARTLY if on some and not on others; REFUTED if more on all;"
        f" INCONCLUSIVE if an interval in question crosses {CONSTANT}, or if SGD's is below {VARIES:g} on any."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=8,
)

"""Several losses, one scalar: weights from the gradients of the heads alone, the backward pass that follows as ever."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, get_args

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor
from torch._compile import (
    _disable_dynamo as not_compiled,  # pyright: ignore[reportPrivateUsage]  # as torch.compiler.disable, with no import
)

from truestep.core import warn
from truestep.multitask._kept import Kept
from truestep.multitask._rule import AbstractRule
from truestep.multitask.balancing._at_weight import Layer
from truestep.multitask.balancing._gauge import Gauge
from truestep.multitask.balancing._initial import InitialLosses
from truestep.multitask.balancing._losses import Loss, Mask, Number, check_names, check_shapes, counted, mean_loss
from truestep.multitask.balancing._normalize import Normalize
from truestep.multitask.balancing._report import Report
from truestep.multitask.balancing._split import Split
from truestep.multitask.balancing._task_sums import TaskSums
from truestep.multitask.balancing._weigher import Weigher, what_to_read
from truestep.multitask.balancing._weighted_sum import WeightedSum


class Balancer(Kept):
    r"""Weighs the losses of several tasks that share features, by any rule, once an optimizer step.

    `split` gives each head a view of the shared features of its own, `total` the sum of the weighted losses. On an
    update step `total` first takes the gradient of each head alone at its view, sets the weights by the rule, and
    returns :math:`\sum_i w_i L_i`: the backward pass that follows is an ordinary one, and value, trunk and heads carry
    the weights that `report` shows. Other steps keep the weights and cost nothing. Nothing goes through the trunk
    twice; an update needs one gradient of the features a task, for its own time.

    Weights are constant within a window of micro-batches: they come from the window before, the first window's from
    its first micro-batch. Losses are means; squared norms add up over micro-batches and ranks with their numbers of
    terms (`count`; micro-batches count alike where none are given). Under `torch.no_grad` nothing is measured.

    There is no parameter here: the weights are no business of the user's optimizer. `state_dict` holds all that a
    resumed run needs. All ranks call `total` equally often.

    Args:
        rule: How weights follow from what is seen.
        tasks: Their names.
        normalize: "budget": the trunk's gradient budget :math:`\sum w_i \|g_i\|` stays that of the plain sum, so that
            the lr keeps its meaning. "sum": the weights' sum stays T, as in the GradNorm paper; the step then shrinks
            by up to T. "none": weights as the rule gives them.
        update_every: Windows from one update to the next.
        accumulate: Micro-batches of a window; None if `end_window` is called at its end.
        layer: Take norms exactly at this shared layer's weight (a module, a tensor or several), not at the features.
        group: Ranks that share the batch; None is all of them.
        initial: L(0) by task, where known.
        initial_batches: Updates whose mean loss is L(0) where it is not given.
        gram: Measure all inner products of the tasks' gradients, for `report.gram` and `report.trunk_factor`.

    Raises:
        ValueError: A task's name twice, no task, or a setting out of range.

    Example:
        >>> from truestep.multitask import UnitNorm
        >>> trunk, heads = torch.nn.Linear(3, 8), torch.nn.ModuleDict({t: torch.nn.Linear(8, 1) for t in "ab"})
        >>> balancer = Balancer(UnitNorm(), tasks="ab")
        >>> views = balancer.split(trunk(torch.randn(5, 3)))
        >>> losses = {t: heads[t](views[t]).square().mean() * scale for t, scale in [("a", 1.0), ("b", 1e6)]}
        >>> balancer.total(losses).backward()
        >>> w = balancer.report.weights
        >>> round(w["a"] * losses["a"].item() / (w["b"] * losses["b"].item()), 4), round(balancer.report.step_factor, 4)
        (1.0, 1.0)
    """

    _weights: Tensor

    def __init__(
        self,
        rule: AbstractRule,
        tasks: Iterable[str],
        *,
        normalize: Normalize = "budget",
        update_every: int = 1,
        accumulate: int | None = 1,
        layer: Layer | None = None,
        group: dist.ProcessGroup | None = None,
        initial: Mapping[str, int | float] | None = None,
        initial_batches: int = 1,
        gram: bool = False,
    ) -> None:
        super().__init__()
        self.tasks = (*tasks,)
        _check(self.tasks, normalize, update_every, accumulate)
        if not isinstance(rule, AbstractRule):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"`rule` must be a rule such as GradNorm(alpha=0.5), built; found {rule!r}"
            raise ValueError(msg)
        rule.start(self.tasks)
        self.update_every, self.accumulate = update_every, accumulate
        gauge = Gauge(self.tasks, what_to_read(rule, normalize, gram=gram), layer)
        first = InitialLosses(self.tasks, initial, initial_batches)
        self.weigher = Weigher(rule, gauge, first, normalize, group)
        self._split: Split | None = None
        self._window: TaskSums | None = None  # what the window has shown so far
        self._done, self._micro = 0, 0  # windows, micro-batches of this one
        self._sum = WeightedSum(self.tasks)
        self._unseen = set(self.tasks)  # never weighed
        self._warned = False

    @property
    def rule(self) -> AbstractRule:
        """The rule, whose state goes with this."""
        return self.weigher.rule

    @property
    def normalize(self) -> Normalize:
        """What of the step the weights keep."""
        return self.weigher.normalize

    # --- what a user calls

    @not_compiled
    def split(self, z: Any) -> dict[str, Any]:
        """A view of the shared features for each task: `head(views["a"])`, nothing else of the head changes.

        Args:
            z: A tensor, or tensors in lists, tuples and dicts (feature pyramids); what needs no gradient is passed on.
        """
        training = torch.is_grad_enabled()
        apart = training and (self._due() or bool(self._unseen)) and self.weigher.gauge.reads != "losses"
        split = Split(z, self.tasks, apart=apart)
        if training:  # a validation pass between `split` and `total` takes nothing away
            self._split = split
        return split.views

    @not_compiled
    def total(
        self,
        losses: Mapping[str, Loss],
        mask: Mapping[str, Mask] | None = None,
        count: Mapping[str, Number] | None = None,
    ) -> Float[Tensor, ""]:
        """Sum of the weighted losses, for anyone's backward.

        Args:
            losses: By task, those absent from the batch left out; a scalar mean each, or one loss a sample.
            mask: By task, for losses per sample: True (or 1) where the label is there; the mean is over these. A label
                that is missing must still be a number: nan gives nan gradients under any mask.
            count: By task, of how many terms its loss is the mean: weighs the micro-batches of a window, and the ranks.

        Raises:
            ValueError: An unknown task; a loss that is not finite, or negative under a rule that divides by it; a rule
                that reads gradients where the features were not split; a head that reads another's view.
        """
        check_names(losses, self.tasks, "losses")
        check_names(mask or (), self.tasks, "mask")
        check_names(count or (), self.tasks, "count")
        check_shapes(losses, mask or {})
        split = None
        if torch.is_grad_enabled():
            split, self._split = self._split, None
        self._follow(losses, split)
        means = {task: mean_loss(loss, mask.get(task) if mask else None) for task, loss in losses.items()}
        values = {task: mean for task, (mean, _) in means.items()}
        if not torch.is_grad_enabled():
            return self._sum(values, self.weigher.weights, split)
        self.weigher.refusal.arrived()
        self._begin()
        due = self._due()
        if (due or self._unseen) and not self._is_frozen(split) and self._is_apart(split):
            numbers = {task: number * (count.get(task, 1) if count else 1) for task, (_, number) in means.items()}
            if due:
                self._measure(values, numbers, split)
            if self.accumulate != 1 or not due:
                self._welcome(values, numbers, split)
        if not due and not self.weigher.shared():
            self.weigher.refuse_at_once(values)
        total = self._sum(values, self.weigher.weights, split)
        self._micro += 1
        if self._micro == self.accumulate:
            self.end_window()
        return total

    def end_window(self) -> None:
        """End the window of micro-batches before `accumulate` of them, or where their number was not told.

        What it has shown sets the weights when the next one begins: until then `report` is that of its own weights.
        """
        if self._micro:
            self._done, self._micro = self._done + 1, 0
            window, self._window = self._window, None
            self._window = None if window is None else self._gathered(window)

    def kpi(self, values: Mapping[str, int | float]) -> None:
        """Tell key performance indicators in [0, 1] (accuracies, say), by task; the next window reads their mean.

        Each rank may tell its own, or none.

        Raises:
            ValueError: An unknown task, or a number outside [0, 1].
        """
        check_names(values, self.tasks, "values")
        if not (self.rule.kpis or self._warned):
            self._warned = True
            warn(f"truestep: {type(self.rule).__name__} reads no KPIs; DynamicTaskPriority does")
        for task, value in values.items():
            if not 0.0 <= value <= 1.0:
                msg = f"the KPI of {task!r} must be in [0, 1], 1 for a task that is solved; found {value}"
                raise ValueError(msg)
        for task, value in values.items():
            self.weigher.told.setdefault(task, []).append(float(value))

    @property
    def report(self) -> Report:
        """What the last update saw and set; reading it waits for the device."""
        return self.weigher.known.report(self.weigher.weights)

    def static_weights(self) -> dict[str, float]:
        """Mean weights of the run so far, their sum T: for a retraining with `Constant(weights)` or by hand."""
        return self.weigher.known.static_weights()

    # --- an update

    def _due(self) -> bool:
        """Whether this window is measured."""
        return self._done % self.update_every == 0

    def _is_frozen(self, split: Split | None) -> bool:
        """Whether there is nothing to balance, since nothing below the split is trained; the first time a warning."""
        frozen = split is not None and bool(split.inputs) and not split.features
        if frozen and not self._warned:
            self._warned = True
            warn("truestep: the features given to `split` need no gradient (a frozen trunk?): weights stay as they are")
        return frozen

    def _is_apart(self, split: Split | None) -> bool:
        """Whether the heads can be told apart; not if the window ended between `split` and `total`."""
        return self.weigher.gauge.reads == "losses" or split is None or bool(split.inputs)

    def _begin(self) -> None:
        """At the first micro-batch of a window take the weights from the window before, if that was measured."""
        if self._micro == 0 and self._window is not None:
            window, self._window = self._window, None
            self._weighed(self.weigher.update(window.to(self.weigher.weights.device)))

    def _follow(self, losses: Mapping[str, Tensor], split: Split | None) -> None:
        """Move to the losses' device, and check that gradients can be had."""
        device = (
            split.device
            if split and split.device
            else next((x.device for x in losses.values()), self.weigher.weights.device)
        )
        if device != self.weigher.weights.device:
            with torch.inference_mode(False):  # else a validation pass would make the state one of inference for good
                self.to(device)
        if split is not None:
            split.check()
        elif (
            self.weigher.gauge.reads != "losses"
            and self.weigher.gauge.weights is None
            and torch.is_grad_enabled()
            and losses
        ):
            msg = (
                f"{self._why()} needs the tasks' gradients: call `views = balancer.split(features)` on features that"
                " are trained before the heads, or name a shared `layer`"
            )
            raise ValueError(msg)

    def _why(self) -> str:
        return type(self.rule).__name__ if self.rule.reads != "losses" else f"normalize={self.normalize!r}"

    def _measure(self, values: Mapping[str, Tensor], numbers: Mapping[str, Number], split: Split | None) -> None:
        """Take the sums of one micro-batch; they set the weights where the window is no longer, or none was before."""
        sums = self.weigher.gauge(
            values, counted(numbers, self.tasks, self.weigher.weights.device), split, alone=self._alone()
        )
        if self.accumulate == 1:
            self._weighed(self.weigher.update(self._gathered(sums)))
            return
        if not self.weigher.shared():  # where ranks share it, all say so together at the window's end
            with self._dropped():
                self.weigher.refuse(sums)
        self._window = sums if self._window is None else self._window.to(sums.loss.device) + sums
        if self._done == self._micro == 0:
            self._weighed(self.weigher.update(self._gathered(sums, provisional=True), provisional=True))

    def _welcome(self, values: Mapping[str, Tensor], numbers: Mapping[str, Number], split: Split | None) -> None:
        """Weigh a task that was never weighed as soon as it appears, also on a step that is not measured.

        Else it would go backward in its own unit until the next update. The others keep their weights. On several
        ranks nobody knows what the others see: there it waits for the update.
        """
        fresh = [task for task in values if task in self._unseen]
        gauge = self.weigher.gauge
        if not fresh or self.weigher.shared() or (gauge.weights is not None and gauge.reads == "gram"):
            return
        sums = gauge(values, counted(numbers, self.tasks, self.weigher.weights.device), split, alone=True)
        self._weighed(self.weigher.welcome(sums, fresh))

    def _weighed(self, active: Bool[Tensor, " tasks"]) -> None:
        """Note who has a weight of its own now; waits for the device until everyone has."""
        if self._unseen:
            self._unseen -= {task for task, there in zip(self.tasks, active.tolist(), strict=True) if there}

    def _gathered(self, sums: TaskSums, *, provisional: bool = False) -> TaskSums:
        with self._dropped():
            return self.weigher.gathered(sums, alone=self._alone(), provisional=provisional)

    @contextmanager
    def _dropped(self) -> Generator[None]:
        """Leave nothing of a window whose loss is refused."""
        try:
            yield
        except ValueError:
            self._window = self.weigher.gauge.vectors.sum = None
            raise

    def _alone(self) -> bool:
        """Whether a micro-batch is a window and no other rank shares it."""
        return self.accumulate == 1 and not self.weigher.shared()

    # --- saving and copying

    def get_extra_state(self) -> dict[str, Any]:
        """What is no tensor of fixed shape; part of `state_dict`."""
        window = None if self._window is None else {k: v for k, v in asdict(self._window).items() if k != "tasks"}
        vectors = self.weigher.gauge.vectors.sum
        return {
            "place": [self._done, self._micro],
            "unseen": sorted(self._unseen),
            "window": window,
            "vectors": None if vectors is None or window is None else vectors.clone(),
            "scaled": self.weigher.gauge.loss_scale.found,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken."""
        self._done, self._micro = state["place"]
        self._unseen = set(state["unseen"])
        self._window = None if state["window"] is None else TaskSums(self.tasks, **state["window"])
        self.weigher.gauge.vectors.sum = (
            None if state["vectors"] is None else state["vectors"].clone()
        )  # it is written to
        self.weigher.gauge.loss_scale.found = state["scaled"]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_split": None}  # views belong to a graph

    def __deepcopy__(self, memo: dict[int, Any]) -> Balancer:
        memo[id(self.weigher.group)] = self.weigher.group  # ranks are not copied
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return new


def _check(tasks: tuple[str, ...], normalize: Any, update_every: Any, accumulate: Any) -> None:
    if not tasks or len(set(tasks)) < len(tasks):
        msg = f"`tasks` must be different names, at least one; found {', '.join(tasks) or 'none'}"
        raise ValueError(msg)
    if normalize not in get_args(Normalize):
        msg = f"`normalize` must be one of {', '.join(get_args(Normalize))}; found {normalize!r}"
        raise ValueError(msg)
    for name, value in (("update_every", update_every), ("accumulate", accumulate)):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not whole and not (name == "accumulate" and value is None):
            msg = f"`{name}` must be a positive int; found {value!r}"
            raise ValueError(msg)

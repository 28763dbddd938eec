"""Which optimizers step many replicas' weights as one, and why others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from truestep.compare._ada_belief import AdaBelief
from truestep.compare._factory import OptimizerFactory
from truestep.compare._lion import Lion
from truestep.compare._sign_sgd import SignSGD

# Each element's displacement depends on its own past alone and is proportional to lr; tests hold each to the loop.
STACKABLE: Final[tuple[type[Optimizer], ...]] = (
    *(SGD, Adam, AdamW, Adamax, NAdam, RAdam, RMSprop, Adagrad, Adadelta),
    *(SignSGD, Lion, AdaBelief),
)
_FUSED: Final = (SGD, Adam, AdamW)  # torch has one kernel for the whole step, on the CPU too
_CHOSEN: Final = ("foreach", "fused", "capturable", "differentiable", "maximize")


FEW: Final = 3  # replicas: that many are trained one by one in the time of a stack, or less
LARGE: Final = 30_000  # weights of a model that keeps a core busy by itself


class NotStackableError(ValueError):
    """Why replicas cannot be trained as one stack."""


def why_not_worth_it(model: nn.Module, replicas: int) -> str:
    """Why a stack would be no faster than one after another, as measured; empty where it would.

    Digits MLP of one hidden layer or two, Adam, one core, times as fast as the loop at 2, 4, 8, 16 replicas: 2,410
    weights .5, .9, 1.1-2, 2.3-4; 26,122 weights .7, 1.1, 1.6, 2.1; 85,002 weights .8, 1.1, 1.4, 1.1; char-gpt, 30,592
    weights, .6 to 1.3 whatever their number.

    Example:
        >>> why_not_worth_it(nn.Linear(2, 1), 1), why_not_worth_it(nn.Linear(2, 1), 16)
        ('there is one replica', '')
    """
    if replicas == 1:
        return "there is one replica"
    if any(p.device.type != "cpu" for p in model.parameters()):
        return ""
    if replicas <= FEW:
        return f"{replicas} replicas are too few to gain by it on a CPU"
    weights = sum(p.numel() for p in model.parameters())
    return f"a model of {weights} weights is too large to gain by it on a CPU" if weights > LARGE else ""


def stacked_optimizer(factory: OptimizerFactory, one: Sequence[Tensor], many: Sequence[Tensor]) -> Optimizer:
    """The optimizer of a stack's weights.

    Args:
        factory: Gives an optimizer of weights.
        one: One replica's weights.
        many: The same of all replicas, along the first dimension.

    Raises:
        NotStackableError: If its rule is none of `STACKABLE`, or it does not treat the stack as it treats one replica.

    Example:
        >>> import torch
        >>> one, many = torch.zeros(2, requires_grad=True), torch.zeros(5, 2, requires_grad=True)
        >>> type(stacked_optimizer(torch.optim.Adam, [one], [many])).__name__
        'Adam'
        >>> stacked_optimizer(torch.optim.Rprop, [one], [many])
        Traceback (most recent call last):
        ...
        truestep.compare.training._stackable.NotStackableError: Rprop is none of the optimizers that can be stacked
    """
    alone = factory([*one])
    name = type(alone).__name__
    if type(alone) not in STACKABLE:
        raise NotStackableError(f"{name} is none of the optimizers that can be stacked")
    if _hooked(alone):
        raise NotStackableError(f"{name} comes with hooks or a scheduler of its own")
    if any(group.get("differentiable") for group in alone.param_groups):
        raise NotStackableError(f"{name} is asked for a differentiable step")
    stacked = (_fused(factory) if all(p.is_floating_point() for p in many) else factory)([*many])
    if type(stacked) is not type(alone) or _layout(alone, one) != _layout(stacked, many):
        raise NotStackableError("the optimizer's groups depend on the shapes of the weights")
    return stacked


def _fused(factory: OptimizerFactory) -> OptimizerFactory:
    """The same rule in torch's fused kernel, where the user has not chosen."""
    rule = factory.func if isinstance(factory, partial) else factory
    given: Mapping[str, Any] = factory.keywords if isinstance(factory, partial) else {}
    if rule in _FUSED and not any(name in given for name in _CHOSEN) and not isinstance(given.get("lr"), Tensor):
        return partial(factory, fused=True)
    return factory


def _hooked(optimizer: Optimizer) -> bool:
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)  # pyright: ignore[reportPrivateUsage]
    return any(hooks) or "step" in vars(optimizer)


def _layout(optimizer: Optimizer, params: Sequence[Tensor]) -> list[tuple[list[int], dict[str, Any]]]:
    """For each group its weights by their number, and its settings."""
    number = {id(p): i for i, p in enumerate(params)}
    return [
        ([number.get(id(p), -1) for p in group["params"]], {k: _plain(v) for k, v in group.items() if k not in _OWN})
        for group in optimizer.param_groups
    ]


_OWN: Final = ("params", "foreach", "fused", "param_names")  # how a step is computed, not what it is


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value

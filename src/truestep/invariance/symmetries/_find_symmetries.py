"""Which weights have no scale of their own: all scaling symmetries of a loss, from gradients alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from truestep.core import is_distributed
from truestep.core._names import named_parameters, unwrapped
from truestep.core._preserved import preserved
from truestep.invariance.symmetries._eps import less_eps
from truestep.invariance.symmetries._granularity import residual
from truestep.invariance.symmetries._probe import Probe, Row
from truestep.invariance.symmetries._search import BUDGET, OWN_LEAST, ROUNDING, Found, Rows, search
from truestep.invariance.symmetries._symmetries import Symmetries

OWN = 8  # batches at most that are seen at the model's own weights


def find_symmetries(
    model: nn.Module, batches: Iterable[Any], loss_fn: Callable[[Any, Any], Any], *, seed: int = 0
) -> Symmetries:
    r"""Find every scaling of the trainable tensors that the loss does not see, from gradients alone.

    .. math:: L(c^{a_1} w_1, \dots, c^{a_K} w_K) = L(w) \;\Rightarrow\; \sum_k S_{bk}\, a_k = 0,
        \quad S_{bk} = \langle w_k^{(b)}, g_k^{(b)}\rangle

    Each row b has a batch and random weights :math:`w^{(b)}` near the model's of its own: what holds at one weight
    only, such as a fresh bias of zero, is no symmetry. The null space of S is given in a basis of small whole
    exponents, and kept if :math:`|S a|` is small and falls as :math:`c^{-2}`, or to rounding, when probed again at
    :math:`w_k c^{a_k}`: a norm layer's eps breaks a symmetry by :math:`\epsilon / \operatorname{var} \propto c^{-2}`.
    It is made 256 times smaller meanwhile where a module has it as an attribute (`eps`, `variance_epsilon`). How much
    it breaks at the model's own weights is told for each finding.

    It takes at most K + 8 backward passes, and 3 more for each set of candidates that proves none: rows of S until
    there are 8 more than its rank, 3 for probing again, and the rest, 3 to 8, at the model's own weights. Small
    batches do (8 items or more under BatchNorm). No Hessian, no graph: any model will do. Weights, gradients, buffers,
    modes and random state are put back, also after an exception. A model in eval mode is probed in train mode
    (BatchNorm in eval mode is not scale invariant); where it is in train mode, parts held in eval mode stay so.

    Tensors are atomic: a symmetry of the queries in a fused qkv is not seen. Frozen tensors are held as they are,
    since they never move. A tied tensor is one. Units are looked for along dimension 0: of a transposed convolution the
    tensor alone is named. Under DDP each rank looks on its own batches.

    Args:
        model: The model, bare or wrapped by DDP or torch.compile; names are those of the bare one.
        batches: Batches of one task, taken in turn; at most K + 8 are taken from an iterator.
        loss_fn: `loss_fn(model, batch)` gives a scalar mean, or unreduced losses and their weights.
        seed: Of the random weights, and of dropout.

    Returns:
        A `Symmetries`; its `labels()` go to `truestep.watch(symmetries=...)`.

    Raises:
        ValueError: If there is no trainable parameter or no batch, a parameter is sharded or narrower than float32,
            `loss_fn` computes under autocast, checkpoints are reentrant, or gradients are not finite.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        >>> found = find_symmetries(model, torch.randn(4, 16, 3), lambda model, x: model(x).logsumexp(1).mean())
        >>> found.alone, found.joint
        ({'0.weight': 'unit'}, [{'1.weight': 1, '1.bias': 1, '3.weight': -1}])
        >>> found.sensitive
        ('3.bias',)

    References:
        van Laarhoven (2017), L2 regularization versus batch and weight normalization; Kunin et al. (2021), Neural
        mechanics, sec. 3 (scale and rescale symmetries and the geometry of their gradients).

    Note: Deviation
        The papers derive symmetries from the architecture; here they are measured, so rounding and eps are in them.
    """
    parameters = {name: p for name, p in named_parameters(model).items() if p.requires_grad and p.numel()}
    taken = list(islice(batches, len(parameters) + BUDGET))
    rounding = _check(parameters, taken)
    with preserved(model):
        if not model.training:
            model.train()
        probe = Probe(model, parameters, taken, loss_fn, seed)
        with less_eps(model):
            found, rows = search(probe, rounding)
        again = probe.passes - rows
        own = min(len(taken), OWN, max(OWN_LEAST, len(parameters) + BUDGET - probe.passes))
        return _measured(probe, list(parameters), found, _tables(model), (rows, again, own))


def _check(parameters: dict[str, Tensor], batches: list[Any]) -> float:
    """Up to which a residual counts as rounding.

    Raises:
        ValueError: What `find_symmetries` says.
    """
    if not parameters:
        raise ValueError("`model` has no parameter that requires a gradient, so no scale to look for")
    if not batches:
        raise ValueError("`batches` is empty; give some small batches, 8 items or more under BatchNorm")
    for name, p in parameters.items():
        if is_distributed(p):
            raise ValueError(f"`model` is sharded ({name} is a DTensor); look before `fully_shard`, on a whole copy")
        if torch.finfo(p.dtype).eps > torch.finfo(torch.float32).eps:
            msg = f"`model` must be in float32 or float64, found {p.dtype} ({name}): its rounding hides symmetries; "
            raise ValueError(f"{msg}give copy.deepcopy(model).float()")
    return ROUNDING * max(torch.finfo(p.dtype).eps for p in parameters.values())


def _tables(model: nn.Module) -> set[int]:
    """Tensors whose rows are looked up: one without gradient was not in the batches, which is not dead."""
    return {id(p) for m in unwrapped(model).modules() if isinstance(m, nn.Embedding) for p in m.parameters()}


def _measured(
    probe: Probe, names: list[str], found: Found, tables: set[int], passes: tuple[int, int, int]
) -> Symmetries:
    """The findings by name, with what they are at the model's own weights."""
    known = {*found.no_effect, *found.alone, *(k for v in found.joint for k, x in enumerate(v) if x)}
    living = [
        k for k, p in enumerate(probe.parameters) if p.dim() > 1 and id(p) not in tables and k not in found.no_effect
    ]
    rows, units, dead = list[Row](), {k: list[Tensor]() for k in found.alone}, {k: list[Tensor]() for k in living}
    for index in range(passes[2]):
        row = probe.own(index)
        rows += [] if row is None else [row]
        for k, seen in units.items():
            seen.append(probe.units(k))
        for k, seen in dead.items():
            seen.append(probe.dead(k))
    if not rows:
        raise ValueError("`model` has NaN or infinite gradients at its own weights; check that these are finite")
    own = Rows.of(rows)
    silent = {names[k]: tuple(torch.stack(x).all(0).nonzero().flatten().tolist()) for k, x in dead.items()}
    parts = {names[k]: torch.stack(x) for k, x in units.items()}
    widths = {names[k]: width for k, (_, width) in sorted(found.alone.items())}
    return Symmetries(
        alone={names[k]: label for k, (label, _) in sorted(found.alone.items())},
        joint=[{names[k]: x for k, x in enumerate(v) if x} for v in found.joint],
        no_effect=tuple(names[k] for k in found.no_effect),
        dead={name: at for name, at in silent.items() if at},
        sensitive=tuple(name for k, name in enumerate(names) if k not in known),
        residuals={name: residual(parts[name], width) for name, width in widths.items()},
        joint_residuals=[own.residual(v) for v in found.joint],
        widths=widths,
        passes=passes,
    )

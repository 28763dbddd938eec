"""What was found about the scales of a model's weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan, nan

Exponents = dict[str, int]


@dataclass(frozen=True, slots=True)
class Symmetries:
    r"""Scaling symmetries of a loss; `print` it for a table, `labels()` for `truestep.watch(symmetries=...)`.

    A generator :math:`a` says :math:`L(c^{a_1} w_1, \dots, c^{a_K} w_K) = L(w)` for every :math:`c > 0`. All of them
    are the tensors in `alone`, the generators in `joint`, and products of their powers.

    Args:
        alone: Tensors that are scale invariant by themselves, with the smallest part that is: "unit" (a slice along
            dimension 0), "group" (so many units in a row, `widths`), or "tensor" (only the whole).
        joint: Generators over several tensors, exponents by name. Others are as short now and then: it is a basis.
        no_effect: Tensors whose value the loss does not see.
        dead: Units (slices along dimension 0) without gradient at the model's own weights on all batches seen, or
            behind weights that are zero: what is said of the others does not rest on them, and they may come back.
        sensitive: Tensors whose norm the loss sees, in no generator.
        residuals: Up to what the tensors in `alone` are invariant at the model's own weights: the cosine of weight and
            gradient (root mean square over parts), 0 but for the norm layers' eps and rounding; nan without a gradient.
        joint_residuals: The same for `joint`, :math:`|\sum a_k\langle w_k,g_k\rangle| / \sqrt{\sum a_k^2 \|w_k\|^2
            \|g_k\|^2}`.
        widths: Units in a part, for the tensors in `alone`.
        passes: Backward passes that it took: rows of S, re-probing, own weights.
    """

    alone: dict[str, str]
    joint: list[Exponents]
    no_effect: tuple[str, ...]
    dead: dict[str, tuple[int, ...]]
    sensitive: tuple[str, ...]
    residuals: dict[str, float] = field(default_factory=dict[str, float])
    joint_residuals: list[float] = field(default_factory=list[float])
    widths: dict[str, int] = field(default_factory=dict[str, int])
    passes: tuple[int, int, int] = (0, 0, 0)

    def labels(self) -> dict[str, str]:
        """One word for each trainable tensor: "unit", "group", "tensor", "joint", "no effect" or "sensitive".

        Example:
            >>> Symmetries({"fc.weight": "unit"}, [{"a": 1, "b": -1}], ("fc.bias",), {}, ("out.bias",)).labels()
            {'fc.weight': 'unit', 'a': 'joint', 'b': 'joint', 'fc.bias': 'no effect', 'out.bias': 'sensitive'}
        """
        joint = {name: "joint" for generator in self.joint for name in generator}
        none = dict.fromkeys(self.no_effect, "no effect")
        return self.alone | joint | none | dict.fromkeys(self.sensitive, "sensitive")

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{len(self.alone)} tensors scale invariant alone, {len(self.joint)} joint groups",
                *(f"  {self._part(name):13} {name}  {_up_to(self.residuals.get(name, nan))}" for name in self.alone),
                *(f"  joint         {_powers(a)}  {_up_to(x)}" for a, x in self._pairs()),
                *(f"  no effect     {name}" for name in self.no_effect),
                *(f"  sensitive     {name}" for name in self.sensitive),
                *(f"  dead          {name}: {_listed(units)}" for name, units in self.dead.items()),
            ]
        )

    def _part(self, name: str) -> str:
        width = self.widths.get(name)
        return f"{self.alone[name]} of {width}" if self.alone[name] == "group" and width else self.alone[name]

    def _pairs(self) -> list[tuple[Exponents, float]]:
        residuals = self.joint_residuals or [nan] * len(self.joint)
        return list(zip(self.joint, residuals, strict=True))


def _up_to(residual: float) -> str:
    return "not measured: no gradient at the model's own weights" if isnan(residual) else f"up to {residual:.0e}"


def _powers(exponents: Exponents) -> str:
    """The generator as a product: "fc1.weight · fc1.bias / fc2.weight^2"."""
    up = " · ".join(name if x == 1 else f"{name}^{x}" for name, x in exponents.items() if x > 0)
    down = "".join(f" / {name}" if x == -1 else f" / {name}^{-x}" for name, x in exponents.items() if x < 0)
    return f"{up or '1'}{down}"


def _listed(units: tuple[int, ...], most: int = 8) -> str:
    shown = ", ".join(map(str, units[:most]))
    return f"unit{'s' * (len(units) != 1)} {shown}{f' and {len(units) - most} more' if len(units) > most else ''}"

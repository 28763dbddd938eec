"""What a check of gradient accumulation found."""

from __future__ import annotations

from dataclasses import dataclass, field

from truestep.loss.accumulation._evidence import Evidence


@dataclass(frozen=True, slots=True)
class AccumulationCheck:
    r"""How the accumulated gradient :math:`a` stands to that of the union batch, :math:`r`; `print` it for a report.

    Args:
        ratio: :math:`\|a\| / \|r\|`.
        cosine: :math:`\langle a, r\rangle / \|a\|\|r\|`.
        relative_error: :math:`\|a - r\| / \|r\|`.
        cause: A sentence that says what is wrong, or that nothing is.
        floor: Relative difference of two runs of the loop; an error of three times that is none.
        short: The same for the first half of the window; None for a window of one micro-batch, and where nothing can
            be told from the half (it has no kept target, say).
        remedy: What to do; "" where nothing is wrong.
        evidence: All numbers that the cause was found from.

    Example:
        >>> from truestep.loss import check_accumulation
        >>> def loss_fn(model, batch):
        ...     return model(batch).square().mean()
        >>> import torch
        >>> check = check_accumulation(torch.nn.Linear(3, 1), loss_fn, torch.randn(4, 8, 3))
        >>> check.ok, check.cause
        (True, 'the accumulated gradient is that of the union batch')
    """

    ratio: float
    cosine: float
    relative_error: float
    cause: str
    floor: float
    short: AccumulationCheck | None
    remedy: str = ""
    evidence: Evidence = field(kw_only=True, repr=False)

    @property
    def ok(self) -> bool:
        """Whether window and half window both give the gradient of their union batch."""
        return self.evidence.same and (self.short is None or self.short.ok)

    @property
    def judged(self) -> bool:
        """Whether anything could be told: not if there is no target, no gradient to compare with, or only noise."""
        return self.evidence.judged

    @property
    def tolerance(self) -> float:
        """Relative error up to which the gradient counts as the same."""
        return self.evidence.tolerance

    @property
    def factor(self) -> float:
        r""":math:`\langle a, r\rangle / \|r\|^2`: as `ratio`, but deaf to what points elsewhere."""
        return self.evidence.found.factor

    def __str__(self) -> str:
        verdict = "right" if self.ok else "WRONG" if self.judged else "not judged"
        lines = [f"gradient accumulation: {verdict}", self._line("window")]
        if self.short is not None:
            lines.append(self.short._line("half of it"))
        lines.append(f"  the loop varies by {self.floor:.1g} between runs; same is up to {self.tolerance:.1g}")
        lines.append(f"cause: {self.cause}")
        return "\n".join([*lines, f"remedy: {self.remedy}"] if self.remedy else lines)

    def _line(self, name: str) -> str:
        numbers = f"ratio {self.ratio:.4f}  cosine {self.cosine:.6f}  relative error {self.relative_error:.2g}"
        return f"  {name:10}  {self.evidence.window.num_micro_batches:4} micro-batches  {numbers}"

"""What several ranks must agree on: when to record, and when to stop."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from truestep.core import is_distributed


class Ranks:
    """The process among the ranks of its run.

    Where tensors are sharded (FSDP2, tensor parallel) every rank records the same steps, since their sums are reduced
    over the shards; rank 0 chooses the period. Where every rank holds everything (DDP) rank 0 measures alone.

    Args:
        parameters: The watched parameters.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        running = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if running else 0
        self.world_size = dist.get_world_size() if running else 1
        self.together = self.world_size > 1 and any(is_distributed(p) for p in parameters)

    @property
    def writes(self) -> bool:
        """Whether this rank keeps the record."""
        return self.rank == 0

    @property
    def measures(self) -> bool:
        """Whether this rank takes part in recording."""
        return self.writes or self.together

    def agree(self, period: int, *, failed: bool) -> tuple[int, bool]:
        """Rank 0's period, and whether recording failed on any rank; one collective, after a recorded step."""
        if not self.together:
            return period, failed
        agreed, failures = _largest(period if self.writes else 0, int(failed))
        return agreed, bool(failures)

    def any_failed(self, *, failed: bool) -> bool:
        """Whether something `failed` on any rank; one collective of all of them, whatever they hold."""
        return failed if self.world_size == 1 else bool(_largest(int(failed))[0])


def _largest(*said: int) -> list[int]:
    """The largest of what the ranks say, number by number."""
    device = torch.device("cuda", torch.cuda.current_device()) if "nccl" in dist.get_backend() else torch.device("cpu")
    heard = torch.tensor(said, device=device)
    dist.all_reduce(heard, op=dist.ReduceOp.MAX)
    return [int(number) for number in heard.tolist()]

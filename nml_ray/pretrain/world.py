"""The workers of a data-parallel run, as the training loop sees them.

Every worker has the whole model. The place of sharded ones (FSDP2) is here and in `BaseArm.build`: the sum of the flat
gradient becomes a reduce-scatter, and parameters are gathered before `forward`; nothing else meets the other workers.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class World:
    """One process of `size`; alone it never communicates."""

    rank: int = 0
    size: int = 1

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add a tensor over all workers, in place. One flat buffer a call keeps the order of additions fixed."""
        if self.size > 1:
            from torch.distributed import all_reduce

            all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait for every worker."""
        if self.size > 1:
            from torch.distributed import barrier

            barrier()

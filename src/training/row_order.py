"""The order of the training rows, the same in both engines."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class Shuffled(Sampler[int]):
    """Rows in an order that depends on seed and epoch alone, not on the global random state."""

    def __init__(self, rows: int, seed: int):
        self.rows, self.seed, self.epoch = rows, seed, 0

    def __len__(self) -> int:
        return self.rows

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(shuffled(self.rows, self.seed, self.epoch).tolist())


def shuffled(rows: int, seed: int, epoch: int) -> torch.Tensor:
    """The indices of the rows in the order of an epoch, (rows,)."""
    # Not seed + epoch: seed 0 in epoch 1 must not repeat seed 1 in epoch 0.
    generator = torch.Generator().manual_seed(seed * 2**20 + epoch)
    return torch.randperm(rows, generator=generator)

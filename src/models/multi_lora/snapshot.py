"""Copies of a pack's adapters on the CPU, on their way while the pack trains on.

Dimension letters: __init__.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from src.models.multi_lora.adapters import FlatLayout
from src.models.multi_lora.step import AdapterState, Pack


class Snapshot:
    """Adapters of a pack and their optimizer states as they are now, on the CPU. From a GPU they
    are still on their way, and whoever reads one waits for them."""

    def __init__(self, pack: Pack, slots: Sequence[int]):
        self.layout, on_gpu = pack.layout, pack.base.device.type == "cuda"
        self._rows = {slot: row for row, slot in enumerate(slots)}
        self._flats = []  # the rows of these slots in the (K, P) tensors of the pack
        for flat in (pack.params, *pack.state):
            copy = torch.empty(len(slots), flat.shape[1], dtype=flat.dtype, pin_memory=on_gpu)
            for first, row, count in _runs(slots):
                own = copy[row : row + count]
                own.copy_(flat[first : first + count], non_blocking=True)
            self._flats.append(copy)
        self._arrived: Any = None
        if on_gpu:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def of(self, slot: int, rank: int) -> "SnapshotRow":
        """The adapter of a slot, of rank `rank`."""
        return SnapshotRow(self, slot, rank)

    def arrived(self, slot: int) -> list[np.ndarray]:
        """A slot's parameters and optimizer states (P,), once they are there. Any thread may call
        it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [flat[self._rows[slot]].numpy() for flat in self._flats]


def _runs(slots: Sequence[int]) -> list[tuple[int, int, int]]:
    """Slots that follow each other: the first, its index in `slots`, and how many they are."""
    found: list[tuple[int, int, int]] = []
    for row, slot in enumerate(slots):
        if found and slot == found[-1][0] + found[-1][2]:
            first, start, count = found.pop()
            found.append((first, start, count + 1))
        else:
            found.append((slot, row, 1))
    return found


@dataclass(frozen=True)
class SnapshotRow:
    """One adapter of a snapshot. Pickled, it waits for its numbers and takes them along."""

    snapshot: Snapshot
    slot: int
    rank: int

    def read(self) -> AdapterState:
        """The adapter and its optimizer state, once they are there. Any thread may call it."""
        make, arguments = self.__reduce__()
        return make(*arguments).read()

    def __reduce__(self) -> "tuple[type[ArrivedRow], tuple[Any, ...]]":
        return ArrivedRow, (self.snapshot.layout, self.rank, self.snapshot.arrived(self.slot))


@dataclass(frozen=True)
class ArrivedRow:
    """An adapter and its optimizer state in the flat rows of a pack."""

    layout: FlatLayout
    rank: int
    flats: Sequence[np.ndarray]  # (P,) each

    def read(self) -> AdapterState:
        """The adapter and its optimizer state."""
        params, *state = (self.layout.read(flat, self.rank) for flat in self.flats)
        return AdapterState(params, tuple(state))

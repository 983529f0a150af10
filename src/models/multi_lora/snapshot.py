"""Copies of a pack's adapters on the CPU, on their way while the pack trains on.

Dimension letters: __init__.
"""

from collections.abc import Sequence
from typing import Any

import torch

from src.models.multi_lora.step import AdapterState, Pack


class Snapshot:
    """Adapters of a pack and their optimizer states as they are now, on the CPU. From a GPU they
    are still on their way, and whoever reads one waits for them."""

    def __init__(self, pack: Pack, slots: Sequence[int]):
        self.layout, on_gpu = pack.layout, pack.base.device.type == "cuda"
        self._rows = {slot: row for row, slot in enumerate(slots)}
        self._flats = []  # the (K, P) tensors of the pack
        for flat in (pack.params, *pack.state):
            copy = torch.empty(len(slots), flat.shape[1], dtype=flat.dtype, pin_memory=on_gpu)
            for row, slot in enumerate(slots):
                copy[row].copy_(flat[slot], non_blocking=True)
            self._flats.append(copy)
        self._arrived: Any = None
        if on_gpu:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self, slot: int, rank: int) -> AdapterState:
        """The adapter of a slot, of rank `rank`. Any thread may call it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        params, *state = (self.layout.read(flat, self._rows[slot], rank) for flat in self._flats)
        return AdapterState(params, tuple(state))

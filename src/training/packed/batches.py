"""The batches of a pack: one step of all its runs as tensors of one static shape.

Legend: K slots, B rows per run and step, T tokens per row, N answer tokens per run and step.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import numpy as np
import torch

from src.models.losses import IGNORED
from src.models.multi_lora.base import FrozenBase
from src.models.multi_lora.flat import has_flat_attention
from src.models.multi_lora.inputs import BatchShape, FlatShape, LossNumbers, StepInput
from src.models.multi_lora.step import Options, idle_row
from src.training.packed.arrays import ExampleArrays
from src.training.packed.run import PackedRun, StepRows

# Each shape is a CUDA graph, which takes as long to capture as hundreds of steps.
MIN_ROWS_FOR_EXACT_LENGTH = 256  # in a step of all runs: the longest of many is nearly constant
MAX_EXACT_LENGTHS = 8
LENGTH_MULTIPLE = 8  # tokens; what other lengths are rounded up to
ANSWERS_MULTIPLE = 64  # answer tokens of a run and step are rounded up to this on a GPU
EXACT_TOKENS_MULTIPLE = 16  # all tokens of a run and step, laid flat, where an exact length pays
TOKENS_MULTIPLE = 64  # and where it does not
COUNTED_MULTIPLE = 512  # answer tokens of all runs of a step that go through the base together


def padded_length(
    longest: int,
    rows: int,
    known: Collection[int] = (),
    *,
    exact: int = 1,
    multiple: int = LENGTH_MULTIPLE,
) -> int:
    """Tokens per row of a step on a GPU whose longest row has `longest`: the next multiple of
    `exact` where a CUDA graph of that length exists (`known`) or pays, else that of `multiple`.

    `rows` are those of all runs in the step.
    """
    pays = rows >= MIN_ROWS_FOR_EXACT_LENGTH and len(known) < MAX_EXACT_LENGTHS
    exactly = -(-longest // exact) * exact
    if exactly in known or pays:
        return exactly
    return -(-longest // multiple) * multiple


class BatchBuilder:
    """Builds the inputs of the next steps of all runs, with `options.graphs` in few shapes."""

    def __init__(self, pad: int, base: FrozenBase, options: Options):
        self.pad, self.base, self.options = pad, base, options
        self._rooms: dict[tuple[int, ...], dict[int, tuple[int, int]]] = {}  # see `_room`

    def step(self, runs: Sequence[PackedRun], slots: int, offset: int) -> StepInput:
        """The step that is `offset` ahead, of every run. Slots without a run are idle."""
        taken = [run.rows_of(run.step + offset) for run in runs]
        shape = self._shape(runs, taken, slots)
        rows, length, answers = shape[:3]
        ids = np.full((slots, rows, length), self.pad, dtype=np.int32)
        positions = np.zeros((slots, answers), dtype=np.int32)
        targets = np.full((slots, answers), IGNORED, dtype=np.int32)
        keys = np.zeros((slots, 1), dtype=np.int32)
        reals = np.tile(np.array(idle_row(type(runs[0].optimizer)), dtype=np.float64), (slots, 1))
        for arrays, members in _by_arrays(runs):
            mine = [taken[index].chosen for index in members]
            own = [runs[index].slot for index in members]
            together, width = np.concatenate(mine), min(arrays.ids.shape[1], length)
            sizes = list(map(len, mine))
            of_row, row = _counted(sizes)
            ids[np.take(own, of_row), row, :width] = arrays.ids[together, :width]
            places, labels = arrays.labelled(together, length)
            of_answer, answer = _counted([taken[index].answer_tokens for index in members])
            first_row = (np.cumsum(sizes) - sizes)[of_answer]  # of the run that has the answer
            place = np.take(own, of_answer), answer
            positions[place], targets[place] = places - first_row * length, labels
        slots_of_runs = [run.slot for run in runs]
        keys[slots_of_runs, 0] = [
            (run.config.training.seed * 1_000_003 + run.step + offset) & 0x7FFFFFFF for run in runs
        ]
        reals[slots_of_runs] = [
            _reals(run, run.step + offset, rows.answer_tokens)
            for run, rows in zip(runs, taken, strict=True)
        ]
        integers = np.concatenate((ids.reshape(slots, -1), positions, targets, keys), 1)
        return StepInput(shape, torch.from_numpy(integers), torch.from_numpy(reals))

    def is_flat(self, length: int) -> bool:
        """True where a step whose rows have up to `length` tokens is laid flat."""
        base = self.base
        return self.options.flat and has_flat_attention(base.geometry, length, base.device)

    def _room(
        self,
        kind: tuple[int, ...],
        answers: tuple[int, int],
        length_of: Callable[[Collection[int]], int],
    ) -> tuple[int, tuple[int, int]]:
        """The length that `length_of` gives, from those known, and the room for answer tokens, of
        one run and of all, that steps of this kind and length have by now."""
        known = self._rooms.setdefault(kind, {})
        length = length_of(known)
        own, together = known.get(length, (0, 0))
        own = max(own, -(-answers[0] // ANSWERS_MULTIPLE) * ANSWERS_MULTIPLE)
        together = max(together, -(-answers[1] // COUNTED_MULTIPLE) * COUNTED_MULTIPLE)
        known[length] = own, together
        return length, (own, together)

    def _shape(
        self,
        runs: Sequence[PackedRun],
        taken: Sequence[StepRows],  # of each run
        slots: int,
    ) -> BatchShape | FlatShape:
        """The shape that holds these rows."""
        # The last token of a row is only predicted, never read.
        length, answers = max(t.longest for t in taken) - 1, max(t.answer_tokens for t in taken)
        sizes = [len(t.chosen) for t in taken]
        if not (self.options.graphs or self.options.flat):
            return BatchShape(max(sizes), length, answers)
        rows, total = max(run.batch for run in runs), sum(sizes)
        if not self.is_flat(length):
            length_of = partial(padded_length, length, total)
            length, (answers, _) = self._room((), (answers, 0), length_of)
            return BatchShape(rows, length, answers)
        heads = [0 if run.config.lora.dropout else run.arrays.head for run in runs]
        tokens = max(
            own.tokens - size - (size - 1) * head
            for own, size, head in zip(taken, sizes, heads, strict=True)
        )
        counted = np.zeros(slots, dtype=np.int64)
        counted[[run.slot for run in runs]] = [t.answer_tokens for t in taken]
        return self.flat_shape(rows, length, tokens, counted, shared=any(heads), total=total)

    def flat_shape(
        self,
        rows: int,
        length: int,
        tokens: int,  # the most of an adapter
        counted: np.ndarray,  # (K,) answer tokens
        *,
        shared: bool,
        total: int,
    ) -> FlatShape:
        """The shape that such a step of `total` rows has with others."""
        length = max(16, 1 << (length - 1).bit_length())  # of which the kernels have one each
        at_once = min(self.options.at_once or len(counted), len(counted))
        together = int(np.add.reduceat(counted, np.arange(0, len(counted), at_once)).max())
        tokens, (answers, most) = self._room(
            (rows, length, shared),
            (int(counted.max()), together),
            partial(padded_length, tokens, total,
                    exact=EXACT_TOKENS_MULTIPLE, multiple=TOKENS_MULTIPLE),
        )  # fmt: skip
        room = most if most < at_once * answers else None
        return FlatShape(rows, length, answers, tokens, shared, room)


def _reals(run: PackedRun, step: int, answer_tokens: int) -> tuple[float, ...]:
    """The row of reals of a run's step `step` (from 0), see `step.idle_row`."""
    config = run.config
    numbers = LossNumbers(1 / answer_tokens, config.training.label_smoothing, config.lora.dropout)
    return *run.optimizer.hyper(step + 1, run.rate(step)), *numbers


def _by_arrays(runs: Sequence[PackedRun]) -> list[tuple[ExampleArrays, list[int]]]:
    """Indices of the runs by the data that they share, whose rows are laid out together."""
    found: dict[int, tuple[ExampleArrays, list[int]]] = {}
    for index, run in enumerate(runs):
        found.setdefault(id(run.arrays), (run.arrays, []))[1].append(index)
    return list(found.values())


def _counted(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For `counts` items of each member: the member of each item, and its number there."""
    member = np.repeat(np.arange(len(counts)), counts)
    return member, np.arange(len(member)) - (np.cumsum(counts) - counts)[member]

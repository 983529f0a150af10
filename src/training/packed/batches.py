"""The batches of a pack: one step of all its runs as tensors of one static shape.

Legend: K slots, B rows per run and step, T tokens per row, N answer tokens per run and step.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch

from src.models.losses import IGNORED
from src.models.multi_lora.step import BatchShape, LossNumbers, StepInput, idle_row
from src.training.packed.run import PackedRun

# Each length of rows is a CUDA graph, which takes as long to capture as hundreds of steps.
MIN_ROWS_FOR_EXACT_LENGTH = 256  # in a step of all runs: the longest of many is nearly constant
MAX_EXACT_LENGTHS = 8
LENGTH_MULTIPLE = 8  # tokens; what other lengths are rounded up to
ANSWERS_MULTIPLE = 64  # answer tokens of a run and step are rounded up to this on a GPU


def padded_length(longest: int, rows: int, known: Collection[int] = ()) -> int:
    """Tokens per row of a step on a GPU whose longest row has `longest`: exact where a CUDA graph
    of that length exists (`known`) or pays, else the next multiple of LENGTH_MULTIPLE.

    `rows` are those of all runs in the step.
    """
    pays = rows >= MIN_ROWS_FOR_EXACT_LENGTH and len(known) < MAX_EXACT_LENGTHS
    if longest in known or pays:
        return longest
    return -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


class BatchBuilder:
    """Builds the inputs of the next steps of all runs; with `graphs` in few shapes."""

    def __init__(self, pad: int, *, graphs: bool):
        self.pad, self.graphs = pad, graphs
        self._answers: dict[int, int] = {}  # room for answer tokens, by length of the rows

    def step(self, runs: Sequence[PackedRun], slots: int, offset: int) -> StepInput:
        """The step that is `offset` ahead, of every run. Slots without a run are idle."""
        chosen = [run.chosen(run.step + offset) for run in runs]
        lengths = [run.arrays.prompts[c] + run.arrays.answers[c]
                   for run, c in zip(runs, chosen, strict=True)]  # fmt: skip
        counts = [int(run.arrays.answers[c].sum())
                  for run, c in zip(runs, chosen, strict=True)]  # fmt: skip
        shape = self._shape(runs, chosen, lengths, counts)
        rows, length, answers = shape
        ids = np.full((slots, rows, length), self.pad, dtype=np.int32)
        positions = np.zeros((slots, answers), dtype=np.int32)
        targets = np.full((slots, answers), IGNORED, dtype=np.int32)
        keys = np.zeros((slots, 1), dtype=np.int32)
        reals = np.tile(np.array(idle_row(type(runs[0].optimizer)), dtype=np.float64), (slots, 1))
        for run, mine, own, count in zip(runs, chosen, lengths, counts, strict=True):
            at, config = run.slot, run.config
            width = min(int(own.max()), length)
            ids[at, : len(mine), :width] = run.arrays.ids[mine, :width]
            positions[at, :count], targets[at, :count] = run.arrays.labelled(mine, length)
            step = run.step + offset
            keys[at] = (config.training.seed * 1_000_003 + step) & 0x7FFFFFFF
            hyper = run.optimizer.hyper(step + 1, run.rate(step))
            numbers = LossNumbers(1 / count, config.training.label_smoothing, config.lora.dropout)
            reals[at] = (*hyper, *numbers)
        integers = np.concatenate((ids.reshape(slots, -1), positions, targets, keys), 1)
        return StepInput(shape, torch.from_numpy(integers), torch.from_numpy(reals))

    def _shape(
        self,
        runs: Sequence[PackedRun],
        chosen: Sequence[np.ndarray],
        lengths: Sequence[np.ndarray],
        counts: Sequence[int],
    ) -> BatchShape:
        """The shape that holds these rows."""
        # The last token of a row is only predicted, never read.
        length, answers = int(max(map(np.max, lengths))) - 1, max(counts)
        if not self.graphs:
            return BatchShape(max(map(len, chosen)), length, answers)
        length = padded_length(length, sum(map(len, chosen)), known=self._answers)
        answers = -(-answers // ANSWERS_MULTIPLE) * ANSWERS_MULTIPLE
        self._answers[length] = answers = max(answers, self._answers.get(length, 0))
        return BatchShape(max(run.batch for run in runs), length, answers)

"""Scores several adapters at once: `scoring.score` over the frozen base of a pack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from src.models.losses import IGNORED
from src.models.multi_lora.adapters import LoraStack
from src.models.multi_lora.base import FrozenBase
from src.models.multi_lora.decode import greedy_tokens, teacher_forced
from src.models.multi_lora.forward import KernelSet
from src.models.multi_lora.step import Options
from src.training import scoring
from src.training.packed.arrays import ExampleArrays
from src.training.packed.run import PackedRun

CPU_CACHE_BYTES = 2 * 2**30  # of keys and values while answers are decoded on a CPU

Scores = tuple[dict[str, float], pa.Table]  # metrics by name, one prediction per row


@dataclass(frozen=True)
class Scorer:
    """`scoring.score` of several adapters at once."""

    base: FrozenBase
    tokenizer: Any
    context: int | None
    options: Options = field(default_factory=Options)

    @property
    def _kernels(self) -> KernelSet:
        if not self.options.kernels:
            return KernelSet()
        from src.models.multi_lora import kernels

        return kernels.KERNELS

    def score(
        self,
        stacks_of: Callable[[list[int]], list[LoraStack]],
        members: Sequence[tuple[int, Sequence[scoring.Row]]],
        *,
        batch_size: int,
        max_new_tokens: int | None,
        progress: Callable[[int], None] = lambda done: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Scores] | None:
        """Metrics and predictions of each member, or None when `stop` said so meanwhile.

        A member is a slot, whose adapter `stacks_of` gives, and its rows. `progress` is called with
        the number of rows done.

        Batches are those of `scoring.score`, longest rows first, because the room for an answer is
        a batch's own.
        """
        rows = [list(own) for _, own in members]
        orders = [sorted(range(len(r)), key=lambda i, r=r: len(r[i]), reverse=True) for r in rows]  # type: ignore[misc]
        log_p = [np.zeros(len(own)) for own in rows]
        predicted = [[""] * len(own) for own in rows]
        hits, tokens = [0] * len(rows), [0] * len(rows)
        budgets = [max_new_tokens or scoring.longest_answer(own) + 8 for own in rows]
        at_once = self._at_once(rows, batch_size, max(budgets, default=1))
        for first in range(0, len(members), at_once):
            group = range(first, min(first + at_once, len(members)))
            stacks = stacks_of([members[index][0] for index in group])
            for start in range(0, max(len(rows[index]) for index in group), batch_size):
                if stop():
                    return None
                progress(start)
                chosen = [orders[index][start : start + batch_size] for index in group]
                # Members of the same data share their batches, which are laid out once.
                shared: dict[tuple[int, ...], list[scoring.Row]] = {}
                batches = [
                    shared.setdefault((id(members[i][1]), *c), [rows[i][at] for at in c])
                    for i, c in zip(group, chosen, strict=True)
                ]
                sums, counts, hit = self._forced(stacks, batches)
                answers = self._answers(stacks, batches, [budgets[index] for index in group])
                for place, (index, own) in enumerate(zip(group, chosen, strict=True)):
                    if not own:
                        continue
                    log_p[index][own] = sums[place][: len(own)]
                    hits[index] += int(hit[place])
                    tokens[index] += int(counts[place])
                    texts = scoring.texts_of(self.tokenizer, answers[place])
                    for at, text in zip(own, texts, strict=True):
                        predicted[index][at] = text
        return [
            scoring.summary(own, log_p[i].tolist(), predicted[i], hits=hits[i], tokens=tokens[i])
            for i, own in enumerate(rows)
        ]

    def _at_once(self, rows: Sequence[Sequence[scoring.Row]], batch_size: int, budget: int) -> int:
        """Adapters whose keys and values fit beside each other."""
        g = self.base.geometry
        longest = max((len(row.prompt_ids) for own in rows for row in own), default=1) + budget
        batch = min(batch_size, max(map(len, rows), default=1))
        numbers = 2 * len(self.base.layers) * g.num_key_value_heads * g.head_dim * longest * batch
        room = CPU_CACHE_BYTES
        if self.base.device.type == "cuda":
            room = torch.cuda.mem_get_info()[0] // 3
        return max(1, room // max(1, numbers * self.base.dtype.itemsize))

    def _forced(
        self, stacks: list[LoraStack], batches: Sequence[Sequence[scoring.Row]]
    ) -> tuple[np.ndarray, list[int], np.ndarray]:
        """Sum of log p of each row (adapters, rows), answer tokens and hits of each adapter."""
        count = max(map(len, batches))
        length = max(len(row) for batch in batches for row in batch)
        answers = max(sum(len(row.answer_ids) for row in batch) for batch in batches)
        ids = np.full((len(batches), count, length), self.tokenizer.pad_token_id, dtype=np.int64)
        positions = np.zeros((len(batches), answers), dtype=np.int64)
        targets = np.full((len(batches), answers), IGNORED, dtype=np.int64)
        owner = np.zeros((len(batches), answers), dtype=np.int64)
        tokens = []
        laid: dict[int, tuple[ExampleArrays, tuple[np.ndarray, np.ndarray]]] = {}
        for k, batch in enumerate(batches):
            if not batch:
                tokens.append(0)
                continue
            if id(batch) not in laid:
                arrays = ExampleArrays.of(batch, self.tokenizer.pad_token_id)
                laid[id(batch)] = arrays, arrays.labelled(np.arange(len(batch)), length)
            arrays, (places, labels) = laid[id(batch)]
            ids[k, : len(batch), : arrays.ids.shape[1]] = arrays.ids
            positions[k, : len(places)], targets[k, : len(places)] = places, labels
            owner[k, : len(places)] = places // length
            tokens.append(len(places))
        place = self.base.device
        log_p, hits = teacher_forced(
            self.base,
            stacks,
            *(torch.from_numpy(part).to(place) for part in (ids, positions, targets)),
            kernels=self._kernels,
        )
        sums = np.zeros((len(batches), count))
        np.add.at(sums, (np.arange(len(batches))[:, None], owner), log_p.double().cpu().numpy())
        return sums, tokens, hits.sum(1).cpu().numpy()

    def _answers(
        self,
        stacks: list[LoraStack],
        batches: Sequence[Sequence[scoring.Row]],
        budgets: Sequence[int],
    ) -> list[list[list[int]]]:
        """The decoded tokens of each row, up to EOS."""
        count = max(map(len, batches))
        longest = max(len(row.prompt_ids) for batch in batches for row in batch)
        eos = self.tokenizer.eos_token_id
        ids = np.full((len(batches), count, longest), self.tokenizer.pad_token_id, dtype=np.int64)
        lengths = np.ones((len(batches), count), dtype=np.int64)
        limits = np.zeros((len(batches), count), dtype=np.int64)
        first: dict[int, int] = {}
        for k, batch in enumerate(batches):
            if (same := first.setdefault(id(batch), k)) != k:
                ids[k], lengths[k] = ids[same], lengths[same]
            else:
                for index, row in enumerate(batch):
                    ids[k, index, : len(row.prompt_ids)] = row.prompt_ids
                    lengths[k, index] = len(row.prompt_ids)
            if batch:
                room = budgets[k]
                if self.context:
                    room = min(room, self.context - int(lengths[k, : len(batch)].max()))
                limits[k, : len(batch)] = max(room, 1)
        place = self.base.device
        tokens = greedy_tokens(
            self.base,
            stacks,
            *(torch.from_numpy(part).to(place) for part in (ids, lengths, limits)),
            eos=eos,
            kernels=self._kernels,
        ).tolist()
        return [
            [scoring.until(answer, eos) for answer in own[: len(batch)]]
            for own, batch in zip(tokens, batches, strict=True)
        ]


def score_runs(
    scorer: Scorer,
    stacks: Callable[[list[int]], list[LoraStack]],
    runs: Sequence[PackedRun],
    split: str,
) -> list[tuple[PackedRun, Scores | None]]:
    """Score each run's adapter on `split`, together where their settings agree and memory allows.
    None for the runs of a group that were all asked to stop meanwhile."""
    results: list[tuple[PackedRun, Scores | None]] = []
    groups: dict[tuple[int, int | None], list[PackedRun]] = {}
    for run in runs:
        asked = run.config.evaluation
        groups.setdefault((asked.batch_size, asked.max_new_tokens), []).append(run)
    for (batch_size, max_new_tokens), group in groups.items():
        count = len(group)
        while group:
            part, waiting = group[:count], group[count:]
            try:
                scores = scorer.score(
                    stacks,
                    [(run.slot, run.examples.rows[split]) for run in part],
                    batch_size=batch_size,
                    max_new_tokens=max_new_tokens,
                    progress=partial(_progress, part, split),
                    stop=partial(_all_stopped, part),
                )
            except torch.OutOfMemoryError:
                if count == 1:
                    raise
                count = -(-count // 2)
                torch.cuda.empty_cache()
                continue
            if scores is None:
                results += [(run, None) for run in part]
            else:
                results += zip(part, scores, strict=True)
            group = waiting
    return results


def _progress(runs: Sequence[PackedRun], split: str, done: int) -> None:
    for run in runs:
        run.policy.progress(split, done, len(run.examples.rows[split]))


def _all_stopped(runs: Sequence[PackedRun]) -> bool:
    """True if every run of the group was asked to stop."""
    return not any(_waits(run) for run in runs)


def _waits(run: PackedRun) -> bool:
    try:
        return not run.reporter.stop_requested()
    except RuntimeError:
        return False  # another process owns it now; it ends at its own next look

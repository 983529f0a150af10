"""Scores several adapters at once: `scoring.score` over the frozen base of a pack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch

from src.models.losses import IGNORED
from src.models.multi_lora.adapters import LoraStack
from src.models.multi_lora.base import FrozenBase
from src.models.multi_lora.decode import greedy_tokens, teacher_forced
from src.models.multi_lora.forward import KernelSet
from src.models.multi_lora.graphs import GraphPool
from src.models.multi_lora.step import Options
from src.training import scoring
from src.training.base_scores import BaseScores, Scores
from src.training.packed.arrays import ExampleArrays
from src.training.packed.run import PackedRun

CPU_CACHE_BYTES = 2 * 2**30  # of keys and values while answers are decoded on a CPU


@dataclass(frozen=True)
class Scorer:
    """`scoring.score` of several adapters at once."""

    base: FrozenBase
    tokenizer: Any
    context: int | None
    options: Options = field(default_factory=Options)
    _graphs: GraphPool = field(default_factory=GraphPool, init=False)

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
        a batch's own. Like there, answers that teacher forcing tells are not decoded.
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
                shared: dict[tuple[int, ...], ExampleArrays] = {}
                batches = []
                for i, own in zip(group, chosen, strict=True):
                    key = (id(members[i][1]), *own)
                    if key not in shared:
                        batch = [rows[i][at] for at in own]
                        shared[key] = ExampleArrays.of(batch, self.tokenizer.pad_token_id)
                    batches.append(shared[key])
                sums, clear, hit = self._forced(stacks, batches)
                answers = self._answers(stacks, batches, clear, [budgets[index] for index in group])
                # In one call, of the answers that no member gave before.
                texts = iter(scoring.texts_of(self.tokenizer, list(chain(*answers))))
                for place, (index, own) in enumerate(zip(group, chosen, strict=True)):
                    if not own:
                        continue
                    log_p[index][own] = sums[place][: len(own)]
                    hits[index] += int(hit[place])
                    tokens[index] += int(batches[place].answers.sum())
                    for at, text in zip(own, texts, strict=False):
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
        self, stacks: list[LoraStack], batches: Sequence[ExampleArrays]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sum of log p of each row's answer, and True where its answer is the greedy one, both
        (adapters, rows); hits of each adapter."""
        count, length = (max(batch.ids.shape[axis] for batch in batches) for axis in (0, 1))
        answers = max(int(batch.answers.sum()) for batch in batches)
        ids = np.full((len(batches), count, length), self.tokenizer.pad_token_id, dtype=np.int64)
        positions = np.zeros((len(batches), answers), dtype=np.int64)
        targets = np.full((len(batches), answers), IGNORED, dtype=np.int64)
        laid: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for k, batch in enumerate(batches):
            if id(batch) not in laid:
                laid[id(batch)] = batch.labelled(np.arange(len(batch.ids)), length)
            places, labels = laid[id(batch)]
            ids[k, : len(batch.ids), : batch.ids.shape[1]] = batch.ids
            positions[k, : len(places)], targets[k, : len(places)] = places, labels
        place = self.base.device
        log_p, hits, clear = teacher_forced(
            self.base,
            stacks,
            *(torch.from_numpy(part).to(place) for part in (ids, positions, targets)),
            kernels=self._kernels,
        )
        sums, all_clear = (
            np.zeros((len(batches), count)),
            np.ones((len(batches), count), dtype=bool),
        )
        at = np.arange(len(batches))[:, None], positions // length
        np.add.at(sums, at, log_p.double().cpu().numpy())
        np.logical_and.at(all_clear, at, clear.cpu().numpy() | (targets == IGNORED))
        return sums, all_clear, hits.sum(1).cpu().numpy()

    def _answers(
        self,
        stacks: list[LoraStack],
        batches: Sequence[ExampleArrays],
        clear: np.ndarray,  # (adapters, rows) True where the answer is the greedy one
        budgets: Sequence[int],
    ) -> list[list[list[int]]]:
        """The tokens of each row's greedy answer, up to EOS. Only those that the true answers do
        not tell are decoded."""
        eos = self.tokenizer.eos_token_id
        rooms = list(budgets)
        if self.context:
            rooms = [
                min(room, self.context - int(batch.prompts.max(initial=0)))
                for room, batch in zip(budgets, batches, strict=True)
            ]
        rooms = [max(room, 1) for room in rooms]
        right: dict[tuple[int, int], list[list[int]]] = {}  # of members that share their batch
        for batch, room in zip(batches, rooms, strict=True):
            if (id(batch), room) not in right:
                answers = (batch.answer(row)[:room] for row in range(len(batch.ids)))
                right[id(batch), room] = [scoring.until(answer, eos) for answer in answers]
        found = [[*right[id(b), room]] for b, room in zip(batches, rooms, strict=True)]
        missed = [np.flatnonzero(~own[: len(f)]) for own, f in zip(clear, found, strict=True)]
        count = max(map(len, missed))
        if not count:
            return found
        longest = max(
            int(b.prompts[m].max(initial=0)) for b, m in zip(batches, missed, strict=True)
        )
        ids = np.full((len(batches), count, longest), self.tokenizer.pad_token_id, dtype=np.int64)
        lengths = np.ones((len(batches), count), dtype=np.int64)
        limits = np.zeros((len(batches), count), dtype=np.int64)
        for k, (batch, rows, room) in enumerate(zip(batches, missed, rooms, strict=True)):
            # The tokens after a prompt are read by nothing, as padding.
            width = min(longest, batch.ids.shape[1])
            ids[k, : len(rows), :width] = batch.ids[rows, :width]
            lengths[k, : len(rows)], limits[k, : len(rows)] = batch.prompts[rows], room
        place = self.base.device
        tokens = greedy_tokens(
            self.base,
            stacks,
            *(torch.from_numpy(part).to(place) for part in (ids, lengths, limits)),
            eos=eos,
            kernels=self._kernels,
            graphs=self._graphs if self.options.graphs else None,
        ).tolist()
        for own, rows, decoded in zip(found, missed, tokens, strict=True):
            for row, answer in zip(rows, decoded, strict=False):
                own[row] = scoring.until(answer, eos)
        return found


def score_alike(
    scorer: Scorer,
    stacks: Callable[[list[int]], list[LoraStack]],
    runs: Sequence[PackedRun],
    split: str,
    of_base: BaseScores,
) -> list[tuple[PackedRun, Scores | None]]:
    """`score_runs`, in which one run is scored for all that have the same scores: those that share
    a slot, and untrained adapters, which are the base model, where they are asked the same. The
    scores of the base are also those of later runs: `of_base` keeps them."""
    alike: dict[tuple[int, ...], list[PackedRun]] = {}
    found: list[tuple[PackedRun, Scores | None]] = []
    for run in runs:
        rows, asked = run.examples.rows[split], _asked(run)
        key = id(rows), *(value or 0 for value in asked.values())
        if not run.is_base:
            alike.setdefault((run.slot, *key), []).append(run)
        elif (known := of_base.find(rows, **asked)) is not None:
            found.append((run, known))
        else:
            alike.setdefault(key, []).append(run)
    firsts = [group[0] for group in alike.values()]
    for run, scores in score_runs(scorer, stacks, firsts, split):
        others = next(group[1:] for group in alike.values() if group[0] is run)
        found.append((run, scores))
        if scores is not None:
            if run.is_base:
                of_base.keep(run.examples.rows[split], scores, **_asked(run))
            found += [(other, scores) for other in others]
        elif others:  # it was asked to stop, and they were not
            found += score_alike(scorer, stacks, others, split, of_base)
    return found


def _asked(run: PackedRun) -> dict[str, int | None]:
    """The settings of the run's evaluations that decide its scores."""
    own = run.config.evaluation
    return {"batch_size": own.batch_size, "max_new_tokens": own.max_new_tokens}


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

"""Scores several adapters at once: `scoring.score` over the frozen base of a pack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from src.format import GIB
from src.models.multi_lora.adapters import LoraStack
from src.models.multi_lora.base import FrozenBase
from src.models.multi_lora.decode import greedy_tokens, teacher_forced
from src.models.multi_lora.forward import KernelSet
from src.models.multi_lora.graphs import GraphPool
from src.models.multi_lora.step import Options
from src.training import scoring
from src.training.base_scores import BaseScores
from src.training.packed.asked import AskedRows, Part, together
from src.training.packed.run import PackedRun
from src.training.rows import Row
from src.training.score_sheet import Scores

CPU_CACHE_BYTES = 2 * GIB  # of keys and values while answers are decoded on a CPU

# Rows of all adapters that a GPU is given at once: it computes thousands in the time that the host
# takes to ask for them. A CPU takes them by batches, whose padding it would have to compute.
ROWS_AT_ONCE = 65_536

ASKED_KEPT = 64  # splits that stay laid out, on the device too; a pack may live for weeks


@dataclass(frozen=True)
class Scorer:
    """`scoring.score` of several adapters at once."""

    base: FrozenBase
    tokenizer: Any
    context: int | None
    options: Options = field(default_factory=Options)
    _graphs: GraphPool = field(default_factory=GraphPool, init=False)
    _asked: dict[tuple[int, ...], AskedRows] = field(default_factory=dict, init=False)

    @property
    def _kernels(self) -> KernelSet:
        if not self.options.kernels:
            return KernelSet()
        from src.models.multi_lora import kernels

        return kernels.KERNELS

    def score(
        self,
        stacks_of: Callable[[list[int]], list[LoraStack]],
        members: Sequence[tuple[int, Sequence[Row]]],
        *,
        batch_size: int,
        max_new_tokens: int | None,
        rows_at_once: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Scores] | None:
        """Metrics and predictions of each member, or None when `stop` said so meanwhile.

        A member is a slot, whose adapter `stacks_of` gives, and its rows. `progress` is called with
        the number of rows done.

        Batches are those of `scoring.score`, longest rows first, because the room for an answer is
        a batch's own; several are computed together where they are `rows_at_once` at most and fit,
        by default as many as the device is made for.
        Like there, answers that teacher forcing tells are not decoded.
        """
        asked = [self._asked_rows(rows, batch_size, max_new_tokens) for _, rows in members]
        fitting = self._fitting_rows(asked)
        if rows_at_once is None:
            rows_at_once = 0 if self.base.device.type == "cpu" else ROWS_AT_ONCE
        results: list[Scores] = []
        at_once = max(1, fitting // min(batch_size, max(map(len, asked), default=1) or 1))
        for first in range(0, len(members), at_once):
            own = asked[first : first + at_once]
            stacks = stacks_of([slot for slot, _ in members[first : first + at_once]])
            most = max(map(len, own))
            batches = max(1, min(fitting, rows_at_once) // len(own) // batch_size)
            found = [_Answered(len(one)) for one in own]
            size = batches * batch_size
            for start in range(0, most, size):
                if stop():
                    return None
                progress(start)
                parts = [one.part(start, size) for one in own]
                clear = self._forced(stacks, parts, found, start)
                self._answer(stacks, parts, clear, found, start)
            results += [of.scores(one) for one, of in zip(own, found, strict=True)]
        return results

    def _asked_rows(
        self, rows: Sequence[Row], batch_size: int, max_new_tokens: int | None
    ) -> AskedRows:
        """The rows as they are asked, laid out once for all evaluations of all adapters."""
        key = id(rows), batch_size, max_new_tokens or 0
        known = self._asked.get(key)
        if known is None or known.given is not rows:
            if len(self._asked) >= ASKED_KEPT:
                self._asked.clear()
            known = AskedRows.of(rows, self.tokenizer, self.context, batch_size, max_new_tokens)
            self._asked[key] = known
        return known

    def _fitting_rows(self, asked: Sequence[AskedRows]) -> int:
        """Rows whose keys, values and activations fit into memory beside each other."""
        g, layer = self.base.geometry, self.base.layers[0]
        longest = max((one.longest_prompt + one.budget for one in asked), default=1)
        numbers = 2 * len(self.base.layers) * g.num_key_value_heads * g.head_dim
        room = CPU_CACHE_BYTES
        if self.base.device.type == "cuda":
            room = torch.cuda.mem_get_info()[0] // 3
            widths = [linear.weight.shape for linear in layer.linears]
            numbers += 2 * max(map(max, widths))
        return max(1, room // (longest * numbers * self.base.dtype.itemsize))

    def _forced(
        self, stacks: list[LoraStack], parts: Sequence[Part], found: "list[_Answered]", start: int
    ) -> list[np.ndarray]:
        """Note each answer's sum of log p and its hits; True for each row of each part whose answer
        is the greedy one."""
        which, distinct = together(parts)
        ids, positions, targets = self._on_device(distinct)
        place = torch.as_tensor(which, device=ids.device)
        log_p, hits, clear = (
            values.cpu().numpy()
            for values in teacher_forced(
                self.base, stacks, ids[place], positions[place], targets[place],
                kernels=self._kernels,
            )
        )  # fmt: skip
        told = []
        for k, part in enumerate(parts):
            if not part.count:
                told.append(np.ones(0, dtype=bool))
                continue
            own = slice(0, part.answer_tokens)
            sums = np.add.reduceat(log_p[k, own].astype(np.float64), part.answer_starts)
            found[k].log_p[start : start + part.count] = sums
            found[k].hits += int(hits[k].sum())
            found[k].tokens += part.answer_tokens
            told.append(np.logical_and.reduceat(clear[k, own], part.answer_starts))
        return told

    def _on_device(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """Token ids (D, B, T), answer positions and targets (D, N) of these parts, on the device.

        A part that all members share is kept there for their next evaluation.
        """
        if len(parts) == 1 and parts[0].on_device is not None:
            return parts[0].on_device
        rows, length = (max(part.ids.shape[axis] for part in parts) for axis in (0, 1))
        answers = max(part.answer_tokens for part in parts)
        padded = [part.padded(rows, length, answers, self.tokenizer.pad_token_id) for part in parts]
        tensors = [
            torch.from_numpy(np.stack(arrays)).to(self.base.device)
            for arrays in zip(*padded, strict=True)
        ]
        if len(parts) == 1:
            parts[0].on_device = tensors
        return tensors

    def _answer(
        self,
        stacks: list[LoraStack],
        parts: Sequence[Part],
        clear: Sequence[np.ndarray],  # (rows,) each: True where the answer is the greedy one
        found: "list[_Answered]",
        start: int,
    ) -> None:
        """Note the text of each row's greedy answer, up to EOS. Only those that the true answers do
        not tell are decoded."""
        eos = self.tokenizer.eos_token_id
        for part, own in zip(parts, found, strict=True):
            own.texts[start : start + part.count] = part.true_texts
        missed = [np.flatnonzero(~own) for own in clear]
        count = max(map(len, missed))
        if not count:
            return
        longest = max(int(part.prompts[m].max(initial=0))
                      for part, m in zip(parts, missed, strict=True))  # fmt: skip
        ids = np.full((len(parts), count, longest), self.tokenizer.pad_token_id, dtype=np.int64)
        lengths = np.ones((len(parts), count), dtype=np.int64)
        limits = np.zeros((len(parts), count), dtype=np.int64)
        for k, (part, rows) in enumerate(zip(parts, missed, strict=True)):
            # The tokens after a prompt are read by nothing, as padding.
            width = min(longest, part.ids.shape[1])
            ids[k, : len(rows), :width] = part.ids[rows, :width]
            lengths[k, : len(rows)], limits[k, : len(rows)] = part.prompts[rows], part.rooms[rows]
        place = self.base.device
        tokens = greedy_tokens(
            self.base,
            stacks,
            *(torch.from_numpy(array).to(place) for array in (ids, lengths, limits)),
            eos=eos,
            kernels=self._kernels,
            graphs=self._graphs if self.options.graphs else None,
        ).tolist()
        answers = [
            scoring.until(answer, eos)
            for rows, decoded in zip(missed, tokens, strict=True)
            for answer in decoded[: len(rows)]
        ]
        # In one call, of the answers that no member gave before.
        texts = iter(scoring.texts_of(self.tokenizer, answers))
        for rows, own in zip(missed, found, strict=True):
            for row in rows.tolist():
                own.texts[start + row] = next(texts)


@dataclass
class _Answered:
    """The answers of one adapter, in the order in which it was asked."""

    count: int
    hits: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        self.log_p = np.zeros(self.count)
        self.texts = [""] * self.count

    def scores(self, asked: AskedRows) -> Scores:
        """The metrics and predictions, in the order of the rows."""
        log_p, texts = np.zeros(self.count), [""] * self.count
        log_p[asked.order] = self.log_p
        for place, text in zip(asked.order, self.texts, strict=True):
            texts[place] = text
        return asked.sheet.summary(log_p.tolist(), texts, hits=self.hits, tokens=self.tokens)


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
        count, rows_at_once = len(group), None
        while group:
            part, waiting = group[:count], group[count:]
            try:
                scores = scorer.score(
                    stacks,
                    [(run.slot, run.examples.rows[split]) for run in part],
                    batch_size=batch_size,
                    max_new_tokens=max_new_tokens,
                    rows_at_once=rows_at_once,
                    progress=partial(_progress, part, split),
                    stop=partial(_all_stopped, part),
                )
            except torch.OutOfMemoryError:
                if count == 1:
                    raise
                count, rows_at_once = -(-count // 2), 0
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

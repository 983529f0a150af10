"""The slots of a pack: their number, the runs in them, and fewer of them out of memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain

import torch

from src.models.multi_lora.step import Options, Pack
from src.training.packed.run import PackedRun, RunSpec
from src.training.packed.shared_base import SharedBase

SYNC_INTERVAL_SECONDS = 0.5  # of steps between two reads of their results and of stop requests
RANK_MULTIPLE = 8  # products of 16-bit numbers want ranks that are multiples of it


class RunQueue:
    """Runs that wait for a slot, read or not, and where more come from."""

    def __init__(self, specs: Iterable[RunSpec], more: Callable[[], RunSpec | None]):
        self._waiting: deque[RunSpec | PackedRun] = deque(specs)
        self._more = more

    def __len__(self) -> int:
        return len(self._waiting)

    def next(self) -> RunSpec | PackedRun | None:
        return self._waiting.popleft() if self._waiting else self._more()

    def put_first(self, *items: RunSpec | PackedRun) -> None:
        self._waiting.extendleft(reversed(items))

    def fetch(self, count: int) -> None:
        """Have `count` waiting, or as many as there are."""
        while len(self) < count and (spec := self._more()) is not None:
            self._waiting.append(spec)


class Slots:
    """Up to `limit` slots over one base, each idle or with a run that trains. Runs that take the
    same steps share one."""

    def __init__(
        self,
        base: SharedBase,
        queue: RunQueue,
        *,
        count: int,
        limit: int,
        rank: int,
        dropout: bool,
        options: Options,
    ):
        self.base, self.queue, self.options = base, queue, options
        self.count, self.limit = count, limit
        self.rank, self.dropout = rank, dropout  # what the adapters in them may have at most
        self.runs: list[PackedRun] = []
        self.shortage = ""  # the warning that memory ran out, once it did
        self.step_seconds = SYNC_INTERVAL_SECONDS  # per step, as measured last
        self._pack: Pack | None = None

    @property
    def pack(self) -> Pack:
        assert self._pack is not None
        return self._pack

    @property
    def leaders(self) -> list[PackedRun]:
        """One run of each slot that is not idle."""
        return list({run.slot: run for run in self.runs}.values())

    def fit(self) -> None:
        """Make slots for runs that wait, up to `limit`; remove them where half are idle and nothing
        waits: a GPU computes idle ones too."""
        if self._pack is None:
            return
        used = len(self.leaders)
        self.queue.fetch(self.limit - used)
        wanted = min(self.limit, used + len(self.queue))
        if wanted > self.count or 0 < wanted <= self.count // 2:
            self.count = wanted
            self._rebuild()
            for run in self.runs:
                run.reporter.used({"slots": self.count})

    def seat(self, run: PackedRun) -> None:
        """Put a run into a free slot, in a larger pack if its adapter needs one, or to a run whose
        steps it shares."""
        rank = max(self.rank, run.rank)
        dropout = self.dropout or run.config.lora.dropout > 0
        if self._pack is None or (rank, dropout) != (self.rank, self.dropout):
            self.rank, self.dropout = rank, dropout
            self._rebuild()
        alike = (r for r in self.runs if r.is_fresh and r.steps_key == run.steps_key)
        taken = {other.slot for other in self.runs}
        slots = [slot for slot in range(self.count) if slot not in taken]
        if run.is_fresh and (other := next(alike, None)) is not None:
            slots = [other.slot]
        if not slots:  # the larger pack had no memory for as many
            self.queue.put_first(run)
            return
        self._put(run, slots[0])
        self.runs.append(run)

    def remove(self, run: PackedRun) -> None:
        """Free the slot of a run that ended."""
        self.runs = [other for other in self.runs if other is not run]

    @contextmanager
    def left_to(self, runs: Sequence[PackedRun]) -> Iterator[None]:
        """Leave their slots to these runs, which end and put other adapters there; those that share
        one get it back as it was."""
        slots = {run.slot for run in runs}
        others = [run for run in self.runs if run.slot in slots and run not in runs]
        for run in others:
            run.state = self.pack.take(run.slot, run.rank)
        yield
        for run in others:
            self._put(run, run.slot)

    def halve(self) -> None:
        """Continue with half the slots; torch.OutOfMemoryError where there is but one."""
        if self.count == 1:
            raise torch.OutOfMemoryError(
                "the GPU has no memory for even one adapter's step, whose rows are all computed at "
                "once; engine trl takes them by micro-batches"
            )
        self.count //= 2
        self.limit = self.count
        self.shortage = f"out of GPU memory: the pack goes on with {self.count} at once"
        for run in self.runs:
            run.reporter.used({"slots": self.count})
            run.reporter.warning(run.step, self.shortage)
        self._rebuild()

    def _rebuild(self) -> None:
        """Make a pack of `count` slots and `rank` with the runs that have a slot, or of half as
        many where memory is short. Runs that lose their slot wait for another."""
        held: dict[int, list[PackedRun]] = {}
        for run in self.runs:
            held.setdefault(run.slot, []).append(run)
            if self._pack is not None:
                run.state = self._pack.take(run.slot, run.rank)
        self._pack, self.step_seconds = None, SYNC_INTERVAL_SECONDS
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        rank = self.rank
        if self.options.kernels:
            rank = -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE
        with suppress(torch.OutOfMemoryError):
            self._pack = Pack(
                self.base.frozen,
                self.count,
                rank,
                optimizer=self.base.optimizer,
                dropout=self.dropout,
                options=self.options,
            )
        if self._pack is None:  # in a handler the error's traceback would keep the pack alive
            self.halve()
            return
        groups = list(held.values())
        self.queue.put_first(*chain(*groups[self.count :]))
        self.runs = list(chain(*groups[: self.count]))
        for slot, group in enumerate(groups[: self.count]):
            for run in group:
                self._put(run, slot)

    def _put(self, run: PackedRun, slot: int) -> None:
        assert run.state is not None
        run.slot = slot
        self.pack.put(slot, run.state, run.scale)
        run.state = None

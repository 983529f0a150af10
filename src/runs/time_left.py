"""Time left of runs: steps, evaluations still owed and the test, by what the run has measured of
itself; of one that waits, by earlier runs of the same length here, and by the queue before it."""

import heapq
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from sqlmodel import Session

from src import store
from src.config import RunConfig, affecting, stored_config, subset
from src.models.metrics import SUITE
from src.runs import estimate, silence
from src.runs.machine import active_here, host, slot_count
from src.store.tables import Run, Status
from src.training.packed.eligibility import pack_key

MAX_QUEUE = 500  # beyond that many queued runs nothing is told of them
POINTS = 40  # the last logged steps tell the pace
EVALUATIONS = 5  # the last evaluations tell what one takes
NEAR = 4  # times as many steps, or as few, by which one run tells how long another takes
KNOWN = 2000  # plans of runs that are remembered
EARLIER = 100  # completed runs that are looked at
# What decides how long a run takes: a step, an evaluation, and how many of them there are.
DURATION = affecting("cost", "scores") | {"training.max_steps"}


@dataclass(frozen=True)
class TimeLeft:
    """Seconds from now until a run starts, and until it has ended."""

    starts: float
    ends: float


def of_run(session: Session, run: Run, now: float | None = None) -> TimeLeft | None:
    """The time left of a run that has not ended; None while it is not known, and for a run that is
    held, whose sweep is paused, or that gives no sign of life."""
    if Status(run.status).ended:
        return None
    if run.status == Status.QUEUED:
        return of_all(session, now).get(run.id)
    return _of_active(session, run, Earlier(session), time.time() if now is None else now)


def document(session: Session, run: Run) -> dict[str, Any]:
    """The document of a run that `spelltune show --json` prints and a webhook gets: that of the
    store, and the time left."""
    left = of_run(session, run)
    return store.show(session, run) | {
        "starts_in_seconds": None if left is None else left.starts,
        "seconds_left": None if left is None else left.ends,
    }


def of_all(session: Session, now: float | None = None) -> dict[str, TimeLeft | None]:
    """{id: time left} of the runs that train on this machine, and of those that wait."""
    now = time.time() if now is None else now
    earlier = Earlier(session)
    active = active_here(session)
    found = {run.id: _of_active(session, run, earlier, now) for run in active}
    waiting = store.queue(session)
    if len(waiting) > MAX_QUEUE:
        return found
    slots: dict[int, Slot] = {number: Slot() for number in range(slot_count())}
    for run in active:
        left = found[run.id]
        slot = slots.setdefault(run.slot or 0, Slot())
        slot.add(plan_of(run).pack, 0.0, math.inf if left is None else left.ends)
    for run in waiting:
        seconds, plan = earlier.seconds(run), plan_of(run)
        starts = _start(list(slots.values()), plan.pack, plan.pack_size, seconds)
        known = math.isfinite(starts) and seconds is not None
        found[run.id] = TimeLeft(starts, starts + (seconds or 0.0)) if known else None
    return found


def of_queue(session: Session) -> float | None:
    """Seconds until all that trains and waits here has ended; None if that is not known, or if
    nothing does."""
    found = of_all(session)
    if any(run.id not in found for run in store.queue(session)):  # too many
        return None
    ends = [left.ends for left in found.values() if left is not None]
    return max(ends) if ends and len(ends) == len(found) else None


# --- a run that trains ----------------------------------------------------------------------------


def _of_active(session: Session, run: Run, earlier: "Earlier", now: float) -> TimeLeft | None:
    if silence.seconds(run, now):
        return None  # whether it goes on, and when, is not known
    config = stored_config(run.config)
    steps = store.moments(session, run.id, run.attempt, ["train/loss"], limit=POINTS)
    names = [name for name in store.metric_names(session, run.id) if _is_score(name)]
    scored = store.moments(session, run.id, run.attempt, names, limit=POINTS)
    seconds = remaining(run, config, steps, dict(scored), now)
    if seconds is None:
        whole = earlier.seconds(run)
        if whole is None or run.started_at is None:
            return None
        seconds = max(1.0, whole - (now - run.started_at))
    return TimeLeft(0.0, seconds)


def _is_score(metric: str) -> bool:
    last = metric.rpartition("/")[2]
    return metric == "val/loss" or (
        metric.startswith(SUITE) and last in ("exact_match", "bits_per_character")
    )


def remaining(
    run: Run, config: RunConfig, steps: Sequence[tuple[int, float]], scored: Mapping[int, float],
    now: float,
) -> float | None:  # fmt: skip
    """Seconds until a run has ended, at least 1; None before it has logged two steps.

    `steps` are the last logged steps of this attempt and when each was taken, `scored` tells when
    an evaluation of a step was over.
    """
    if len(steps) < 2:
        return None
    (first, began), (last, taken) = steps[0], steps[-1]
    took = {step: scored[step] - at for step, at in steps if scored.get(step, 0) >= at}
    one = fmean(list(took.values())[-EVALUATIONS:]) if took else 0.0  # until the first one: unknown
    # Of an evaluation between two logged steps only the end is known.
    between = sum(first < step < last and step not in took for step in scored)
    scoring = sum(t for step, t in took.items() if step < last) + one * between
    pace = max(0.0, taken - began - scoring) / (last - first)
    every, most = config.evaluation.eval_steps, run.max_steps
    owed = most // every - last // every + (most % every != 0 and last < most)
    if last and (last % every == 0 or last == most) and last not in scored:
        owed += 1
    # At the end the kept adapter is scored on the test set, and again if it is an older one.
    again = last < most or run.best_step != last
    seconds = (most - last) * pace + (owed + again + _test_share(run, config)) * one
    return max(1.0, seconds - (now - max(taken, scored.get(last, 0.0))))


def _test_share(run: Run, config: RunConfig) -> float:
    """Time of the test, in evaluations of the validation set."""
    rows = run.used.get("rows") or {}
    validation = min(rows.get("validation") or 0, config.evaluation.max_rows or math.inf)
    return float((rows.get("test") or 0) / validation) if validation else 1.0


# --- a run that waits -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The part of a run's settings that decides how long it takes, and with whom."""

    length: str  # equal for runs that take as long
    pace: str  # equal for runs that take as long for a step
    pack: tuple[Any, ...] | None  # equal for runs that share a process; None: it trains alone
    pack_size: int


# By id, launch and attempt, whose settings stay; another run may have the id of a deleted one.
_plans: dict[tuple[str, float, int], Plan] = {}


def plan_of(run: Run) -> Plan:
    """The plan of a run; remembered, as reading its settings takes a millisecond."""
    key = run.id, run.created_at, run.attempt
    if key not in _plans:
        if len(_plans) > KNOWN:
            _plans.clear()
        config = stored_config(run.config)
        pack = pack_key(config) if config.engine == "packed" else None
        _plans[key] = Plan(length_of(config), pace_of(config), pack, config.pack_size)
    return _plans[key]


def length_of(config: RunConfig) -> str:
    """A key that is equal for configs whose runs take as long."""
    return json.dumps(subset(config, DURATION), sort_keys=True)


def pace_of(config: RunConfig) -> str:
    """A key that is equal for configs whose runs differ in time by their steps alone."""
    return json.dumps(subset(config, DURATION - {"training.max_steps"}), sort_keys=True)


@dataclass(frozen=True)
class Needed:
    """Time that several runs take together."""

    seconds: float  # from their start until the last one has ended
    machine_seconds: float  # of the machine, which has a slot for each GPU


@dataclass(frozen=True)
class Known:
    """How long runs of one length take."""

    seconds: float
    share: float | None = None  # of a pack's time, if runs tell that trained in one
    ran: bool = True  # completed runs tell, not the upper bound of a measurement


@dataclass(frozen=True)
class Took:
    """How long a completed run took, and its share of that if it trained in a pack."""

    steps: int
    seconds: float
    share: float | None


class Earlier:
    """Times that completed runs of this machine took, by the settings that decide them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._known: dict[str, Known | None] | None = None  # by length
        self._paces: dict[str, list[Took]] = {}

    def seconds(self, run: Run) -> float | None:
        """Seconds from the start of a run to its end: of runs of the same length, else by those
        that differ in their steps alone, else at most by a measurement; None without any."""
        whole = self._whole(plan_of(run).length, lambda: stored_config(run.config))
        left = 1 - (run.resume_step or 0) / run.max_steps
        return None if whole is None else whole.seconds * left

    def of_config(self, config: RunConfig) -> tuple[float | None, bool]:
        """Seconds that a run of a config takes, and whether completed runs tell, not the upper
        bound of a measurement."""
        found = self._of_config(config)
        return (None, False) if found is None else (found.seconds, found.ran and not found.share)

    def _of_config(self, config: RunConfig) -> Known | None:
        return self._whole(length_of(config), lambda: config)

    def of_all(self, configs: Iterable[RunConfig]) -> Needed | None:
        """The time of runs of these configs together on this machine, if nothing else trains there;
        None where that of one is not known. Those that may share a process are one pack after the
        other. A pack takes as long as its slowest run, or as the shares that its runs had of
        earlier packs."""
        alone: list[float] = []
        packs: dict[Any, list[tuple[float, float]]] = {}  # of each run: its time, and its share
        for config in configs:
            if (found := self._of_config(config)) is None:
                return None
            if config.engine == "packed":
                one = found.seconds, found.share or found.seconds
                packs.setdefault((pack_key(config), config.pack_size), []).append(one)
            else:
                alone.append(found.seconds)
        for (_, size), runs in packs.items():
            for first in range(0, len(runs), size):
                whole, shares = zip(*runs[first : first + size], strict=True)
                alone.append(max(*whole, sum(shares)))
        ends = [0.0] * slot_count()
        for seconds in alone:
            heapq.heapreplace(ends, ends[0] + seconds)
        return Needed(max(ends), sum(alone) / len(ends))

    def _whole(self, length: str, config: Callable[[], RunConfig]) -> Known | None:
        if self._known is None:
            self._known = self._read()
        if length not in self._known:
            found = config()
            steps = found.training.max_steps
            # Of a much shorter run most is its start, which a longer one has no more of.
            near = [
                took
                for took in self._paces.get(pace_of(found), ())
                if 1 / NEAR <= took.steps / steps <= NEAR
            ]
            if near:
                self._known[length] = _known(near, steps)
            else:
                measured = estimate.load(found)
                fits = measured if measured and measured.fits else None
                self._known[length] = Known(fits.seconds(found), ran=False) if fits else None
        return self._known[length]

    def _read(self) -> dict[str, Known | None]:
        found: dict[str, list[Took]] = {}
        self._paces = {}
        runs = store.completed_here(self.session, host(), limit=EARLIER)
        sizes = store.sizes_of_processes(self.session, [run.token for run in runs if run.token])
        for run in runs:
            assert run.started_at is not None and run.ended_at is not None
            plan, seconds = plan_of(run), run.ended_at - run.started_at
            # A process may train more runs than it has places: each shares with those beside it.
            beside = min(sizes.get(run.token or "", 1), plan.pack_size) if plan.pack else 1
            share = seconds / beside if beside > 1 else None
            took = Took(run.max_steps, seconds, share)
            found.setdefault(plan.length, []).append(took)
            self._paces.setdefault(plan.pace, []).append(took)
        return {length: _known(took, took[0].steps) for length, took in found.items()}


def _known(runs: Sequence[Took], steps: int) -> Known:
    """How long a run of so many steps takes, by runs of the same pace."""
    seconds = median(took.seconds / took.steps for took in runs)
    shares = [took.share / took.steps for took in runs if took.share is not None]
    return Known(seconds * steps, median(shares) * steps if shares else None)


@dataclass
class Slot:
    """The process of a slot, and when each of its runs ends, in seconds from now."""

    key: tuple[Any, ...] | None = None
    began: float = 0.0
    ends: list[float] = field(default_factory=list)  # a heap: of the members that hold a place
    over: float = 0.0  # when the process ends

    def add(self, key: tuple[Any, ...] | None, began: float, end: float) -> None:
        """A run trains here until `end`."""
        if not self.ends:
            self.key, self.began = key, began
        heapq.heappush(self.ends, end)
        self.over = max(self.over, end)


def _start(
    slots: Sequence[Slot], key: tuple[Any, ...] | None, size: int, seconds: float | None
) -> float:
    """When the next run of the queue starts: with the pack that it may join, as soon as that has
    room, else on the slot that is free first."""
    end = math.inf if seconds is None else seconds
    for slot in slots:
        if key is not None and slot.key == key and slot.ends:
            starts = slot.began if len(slot.ends) < size else heapq.heappop(slot.ends)
            slot.add(key, starts, starts + end)
            return starts
    slot = min(slots, key=lambda one: one.over)
    starts = slot.over
    slot.ends.clear()
    slot.add(key, starts, starts + end)
    return starts

"""Looks at two configs: the moments at which there was a verdict on them, by the run table.

Whoever tests again after each new seed, until there is a winner, finds one among equal configs. So
looks are counted. Seeds that are launched together belong to one look, which is complete when all
of them have ended. Launching more once both sides have been scored, or stopping some, is decided at
the sight of the scores, so that sight was a look, and what comes after it is another.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from src.analysis.verdicts import MIN_SEEDS
from src.store.tables import Run, Status


@dataclass(frozen=True)
class Look:
    """The last look that is complete."""

    number: int  # from 1; 0: none is complete
    runs: frozenset[str]  # ids of the seeds that had been scored by then; all, where none is
    under_way: int  # seeds of the next look, queued or training


def last_look(scored: Sequence[Sequence[Run]], every: Iterable[Run]) -> Look:
    """The last complete look at two configs, or at one beside its base model, from the scored seeds
    of each and all their runs."""
    every = list(every)
    seeds = list(chain(*scored))
    under_way = [run for run in every if not Status(run.status).ended]
    decisions = {(_launched(run), "launch") for run in (*seeds, *under_way)}
    decisions |= {(at, "stop") for run in every if (at := _stopped(run)) is not None}
    taken: dict[tuple[str, frozenset[str]], None] = {}  # in order, each once
    for at, what in sorted(decisions):
        there = [[run.id for run in side if (run.ended_at or 0.0) <= at] for side in scored]
        if min(map(len, there)) >= MIN_SEEDS:
            taken[what, frozenset(chain(*there))] = None
    everything = frozenset(run.id for run in seeds)
    if not under_way:
        return Look(len(taken) + 1, everything, 0)
    seen = next(reversed(taken), ("", everything))[1]
    return Look(len(taken), seen, len(under_way))


def _launched(run: Run) -> float:
    """When it was decided to train a seed: those of a trial are decided with the sweep."""
    return 0.0 if run.number is not None else run.created_at


def _stopped(run: Run) -> float | None:
    """When a person stopped or cancelled a run; None if nobody did."""
    if run.status == Status.CANCELLED:
        return run.ended_at
    return None if run.stop_reason else run.stop_requested_at

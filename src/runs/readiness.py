"""The run that a standby trainer is made ready for, and the conditions for it to take one."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from src import paths, store
from src.config import RunConfig, load_config, stored_config
from src.files import code_stamp
from src.format import GIB
from src.runs.environment import child_environment, slot_environment
from src.runs.locks import holder
from src.runs.machine import active_here, free_gpu_memory, free_memory, slot_lock
from src.runs.timeouts import TIMEOUTS
from src.store.tables import Run
from src.training.packed.eligibility import pack_key, packed_problems

# Of the machine's memory, free: to start a standby trainer, which takes about 1 GiB, and to keep
# it. A training that begins without it must not find less than it would have found.
START_BYTES, KEEP_BYTES = 3 * GIB, int(1.5 * GIB)
GPU_BYTES = 4 * GIB  # free on its GPU, to start one

# Of a shell, a terminal or a login, and what Streamlit sets in the panel. They decide nothing in a
# training: a trainer that a panel started takes the run of a command.
OF_THE_CALLER = (
    "MPLBACKEND",
    "_", "COLORTERM", "COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "STY", "TERM", "TERM_PROGRAM",
    "TERM_PROGRAM_VERSION", "TERM_SESSION_ID", "TMUX", "TMUX_PANE", "WINDOWID", "XDG_SESSION_ID",
    "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY",
)  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """A run like the one that a standby trainer should be ready for."""

    config: RunConfig
    beside: bool  # another trainer uses the slot still, so it loads libraries alone


def minutes_of(config: RunConfig) -> float:
    """Minutes for which a standby trainer like this waits for a run; 0 for none."""
    return config.supervision.standby_minutes if TIMEOUTS.standby else 0


def is_off(config: RunConfig) -> bool:
    """True if no standby trainer is wanted for a run, or on this machine: by its default."""
    return not minutes_of(config) or not minutes_of(load_config())


def libraries_of(config: RunConfig) -> list[Any]:
    """Equal for runs whose trainers import the same libraries, in the same order."""
    packed = config.engine == "packed" or (config.engine == "auto" and not packed_problems(config))
    return [config.engine, packed, config.backend, config.training.precision]


def environment_key(slot: int) -> str:
    """Hash of all that a trainer of this slot, started from here, takes from outside of its run:
    environment, code, Python, installed packages and device."""
    paths.home()  # makes SPELLTUNE_HOME absolute
    values = child_environment() | slot_environment(slot)
    environment = sorted((k, v) for k, v in values.items() if k not in OF_THE_CALLER)
    return hashlib.sha256(json.dumps([environment, code_stamp()]).encode()).hexdigest()


def wanted(slot: int) -> Wanted | None:
    """The run that a standby trainer of a slot should be ready for; None where none is needed.

    For the next run of the queue, where it cannot join those that train on the slot; else, on a
    free slot, for one like the newest run.
    """
    with store.reading() as session:
        active = active_here(session)
        waiting = list(store.queue(session))
        newest = list(store.list_runs(session, limit=1))
    here = [run for run in active if run.slot == slot]
    if here:
        later = [run for run in waiting if not _can_join(run, here)]
        config = stored_config(later[0].config) if later else None
    elif waiting or holder(slot_lock(slot)) is not None:
        return None  # a run is about to start here, or something is being measured
    else:
        config = stored_config(newest[0].config) if newest else load_config()
    if config is None or is_off(config):
        return None
    return Wanted(config, beside=bool(here))


def _can_join(run: Run, running: Sequence[Run]) -> bool:
    """True if a queued run can join the pack that these runs train in."""
    config, other = stored_config(run.config), stored_config(running[0].config)
    return config.engine == other.engine == "packed" and pack_key(config) == pack_key(other)


def why_not(slot: int) -> str | None:
    """A sentence where too little memory is free to start a standby trainer, else None."""
    if (free := free_memory()) < START_BYTES:
        return _little(free, "memory", START_BYTES)
    if (on_gpu := free_gpu_memory(slot)) is not None and on_gpu < GPU_BYTES:
        return _little(on_gpu, "the GPU's memory", GPU_BYTES)
    return None


def _little(free: int, of: str, needed: int) -> str:
    return f"{free / GIB:.1f} GiB of {of} are free, and it is started from {needed / GIB:g} on"

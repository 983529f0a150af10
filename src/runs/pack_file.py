"""The members of a pack: its supervisor writes them, its trainer reads them."""

import json
from collections.abc import Sequence

from src import paths
from src.files import read_text, write_atomic

Member = tuple[str, int]  # run id and attempt


def write_members(token: str, members: Sequence[Member]) -> None:
    """Write all members that the pack ever had, in the order in which they joined."""
    write_atomic(paths.pack_file(token), "".join(f"{json.dumps(one)}\n" for one in members))


def read_members(token: str) -> list[Member]:
    """The members so far; none where the file is not there, as once the pack is over."""
    try:
        lines = read_text(paths.pack_file(token)).splitlines()
    except FileNotFoundError:
        return []
    return [(run_id, attempt) for run_id, attempt in map(json.loads, lines)]


def forget_members(token: str) -> None:
    """Remove the file of a pack that is over."""
    paths.pack_file(token).unlink(missing_ok=True)

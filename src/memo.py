"""Values that are computed in batches, each once while there is room to remember it"""

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memo(Generic[K, V]):
    """Remembers the values of up to `limit` keys; then it forgets all and begins again.

    Threads may share one: at worst two of them compute the same value.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._known: dict[K, V] = {}

    def of(self, keys: Sequence[K], compute: Callable[[list[K]], Sequence[V]]) -> list[V]:
        """The value of each key; `compute` gives those that are not known, in one call."""
        known, distinct = self._known, list(dict.fromkeys(keys))
        new = [key for key in distinct if key not in known]
        if new and len(known) + len(new) > self.limit:
            # Another one, not emptied: a thread may be reading it.
            known, new = {}, distinct
            self._known = known
        if new:
            known.update(zip(new, compute(new), strict=True))
        return [known[key] for key in keys]

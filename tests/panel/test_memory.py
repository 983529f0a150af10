"""The panel's garbage collection: libraries are set aside, sessions are not."""

import gc
import weakref

from src.panel import memory


class Session:
    def __init__(self) -> None:
        self.itself = self  # only a collection frees it


def test_objects_of_libraries_are_set_aside_once_and_what_came_later_is_collected(monkeypatch):
    monkeypatch.setattr(memory, "_modules", 0)
    memory.set_modules_aside()
    assert gc.get_freeze_count() > 10 * len(gc.get_objects())

    before = gc.get_freeze_count()
    gone, kept = weakref.ref(Session()), [[] for _ in range(1000)]
    memory.set_modules_aside()  # no module came in between
    assert gc.get_freeze_count() <= before
    gc.collect()
    assert gone() is None and kept


def test_what_went_out_of_use_is_freed_before_more_is_set_aside(monkeypatch):
    left = Session()
    gone = weakref.ref(left)
    for _ in range(2):
        monkeypatch.setattr(memory, "_modules", 0)  # as if a module had come
        memory.set_modules_aside()
        left = None
    assert gone() is None

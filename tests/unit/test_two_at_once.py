"""What two tabs, threads or processes do at the same moment, each as if it were alone."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from src.panel.launch import measure_button
from src.runs import exporting
from src.runs.exporting import Form

pytestmark = pytest.mark.usefixtures("home")


class Meeting:
    """A step that two threads are to come to before either goes on; one that a lock keeps out
    lets the other go on after a moment."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)

    def after(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            with suppress(threading.BrokenBarrierError):
                self.barrier.wait(1)
            return result

        return wait


def both(call: Callable[[], Any]) -> list[Any]:
    """What two threads get that call this at once."""
    with ThreadPoolExecutor(2) as threads:
        return [one.result(60) for one in [threads.submit(call), threads.submit(call)]]


def test_two_presses_start_one_export(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[Any, ...]] = []
    monkeypatch.setattr(exporting, "start_detached", lambda *call, log: started.append(call))
    monkeypatch.setattr(exporting, "look", Meeting().after(exporting.look))
    both(lambda: exporting.start("r", None, Form.MERGED))
    assert len(started) == 1
    exporting.start("r", None, Form.F16)
    assert len(started) == 2


def test_two_presses_begin_one_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    asked: list[dict[str, Any]] = []

    def measure(request: dict[str, Any]) -> None:
        asked.append(request)
        assert go_on.wait(60)

    monkeypatch.setattr(measure_button, "_measure", measure)
    begun: dict[str, Any] = {}
    monkeypatch.setattr(measure_button, "_begun", lambda: begun)
    measure_button._begin("one", {"run": 1})
    first = begun["one"]
    measure_button._begin("one", {"run": 2})
    assert begun["one"] is first
    go_on.set()
    first.result(60)
    assert asked == [{"run": 1}]
    measure_button._begin("one", {"run": 3})  # measured again
    begun["one"].result(60)
    assert asked[1:] == [{"run": 3}]

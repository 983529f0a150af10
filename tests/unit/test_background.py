"""Jobs beside a training: their order, their errors, and how many may wait."""

import threading

import pytest

from src.training.background import AtOnce, Background


def test_a_run_has_its_jobs_done_in_order_and_others_beside_it() -> None:
    background = Background(threads=2)
    one, other = background.queue(), background.queue()
    began, done = threading.Event(), []

    def first() -> None:
        assert began.wait(60)  # done only if the other queue goes on meanwhile
        done.append("first")

    one.put(first)
    second = one.put(lambda: done.append("second") or 2)
    other.put(began.set)
    one.wait()
    assert done == ["first", "second"] and second.result() == 2
    background.close()


def test_a_job_that_fails_is_heard_of_and_those_after_it_are_not_done() -> None:
    background = Background(threads=1)
    queue, other, done = background.queue(), background.queue(), []

    def fails() -> None:
        raise KeyError("momentum")

    queue.put(fails)
    after = queue.put(lambda: done.append("after"))
    other.put(lambda: done.append("other"))
    with pytest.raises(KeyError, match="momentum"):
        queue.wait()
    with pytest.raises(KeyError, match="momentum"):
        after.result()
    other.wait()
    background.close()
    assert done == ["other"]
    with pytest.raises(KeyError, match="momentum"):
        AtOnce().put(fails)


def test_only_so_many_jobs_wait() -> None:
    background = Background(threads=1, max_waiting=2)
    queue, go = background.queue(), threading.Event()
    queue.put(go.wait)
    queue.put(lambda: None)
    entered, put = threading.Event(), threading.Event()

    def third() -> None:
        entered.set()
        queue.put(lambda: None)
        put.set()

    threading.Thread(target=third, daemon=True).start()
    assert entered.wait(60) and not put.wait(0.2)
    go.set()
    assert put.wait(60)
    background.close()  # what waits is done first
    queue.wait()

"""Work that waits is done soon, in order, once; and at once for whoever drains."""

import gc
import os
import threading
import weakref
from functools import partial

import pytest

from otel_fastperf.internals import backlog as module
from otel_fastperf.internals.backlog import Backlog
from tests.serving import wait_until


def runs(backlog: Backlog) -> bool:
    """Whether its thread runs. Threads of other backlogs, which earlier tests have left, may run too."""
    return backlog._thread is not None and backlog._thread.is_alive()


def test_items_are_called_soon_and_in_order() -> None:
    backlog, done = Backlog(), list[int]()
    for number in range(1000):
        backlog.put(partial(done.append, number))
    wait_until(lambda: len(done) == 1000, what="all items")
    assert done == list(range(1000))


def test_draining_calls_all_that_waits_before_it_returns() -> None:
    backlog, done = Backlog(), list[int]()
    for number in range(100):
        backlog.put(partial(done.append, number))
    backlog.drain()
    assert len(done) == 100


def test_many_threads_put_and_drain_and_each_item_is_called_once() -> None:
    backlog, done = Backlog(), list[int]()

    def work(first: int) -> None:
        for number in range(first, first + 500):
            backlog.put(partial(done.append, number))
            if number % 50 == 0:
                backlog.drain()

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backlog.drain()
    wait_until(lambda: len(done) >= 4000, what="all items")
    assert sorted(done) == list(range(4000))


def test_an_item_that_drains_does_not_wait_for_itself() -> None:
    backlog, done = Backlog(), list[str]()

    def drains() -> None:
        backlog.drain()
        done.append("first")

    backlog.put(drains)
    backlog.put(lambda: done.append("second"))
    backlog.drain()
    assert done == ["first", "second"]


def test_who_adds_to_a_full_backlog_works_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    monkeypatch.setattr(Backlog, "_start", lambda _self: None)
    backlog, done = Backlog(), list[int]()
    backlog._running = True
    for number in range(25):
        backlog.put(partial(done.append, number))
    assert 15 <= len(done) <= 25
    assert len(backlog._waiting) <= 11


def test_the_thread_ends_without_work_and_starts_again_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE", 0.1)
    backlog, done = Backlog(), list[int]()
    for number in range(3):
        backlog.put(partial(done.append, number))
        wait_until(partial(done.__contains__, number), what="the item")
        wait_until(lambda: not runs(backlog), what="the end of the thread")


def test_stopping_calls_what_waits_and_ends_the_thread() -> None:
    backlog, done = Backlog(), list[int]()
    backlog.put(lambda: done.append(1))
    backlog.stop()
    assert done == [1]
    assert not runs(backlog)
    backlog.put(lambda: done.append(2))
    backlog.stop()
    assert done == [1, 2]


def test_a_backlog_that_nobody_uses_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE", 0.1)
    backlog = Backlog()
    backlog.put(lambda: None)
    gone = weakref.ref(backlog)
    del backlog
    wait_until(lambda: gc.collect() >= 0 and gone() is None, what="its end")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_starts_with_an_empty_backlog_of_its_own() -> None:
    backlog = Backlog()
    begun, slow = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        slow.wait(0.3)

    backlog.put(wait)
    assert begun.wait(20)
    backlog.put(lambda: None)
    child = os.fork()
    if child == 0:
        done: list[int] = []
        backlog.put(lambda: done.append(1))
        backlog.drain()
        os._exit(0 if done == [1] else 1)
    slow.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    backlog.stop()


def test_an_item_that_raises_is_told_and_the_others_are_called() -> None:
    failures: list[Exception] = []
    backlog, done = Backlog(failures.append), list[int]()
    for number in (1, 2):
        backlog.put(partial(int, "not a number"))
        backlog.put(partial(done.append, number))
        wait_until(partial(done.__contains__, number), what="both items")
    assert [type(failure) for failure in failures] == [ValueError, ValueError]

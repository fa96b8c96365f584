"""Functions in C have no frames: their names come from the place in the source that calls them."""

import sys
import threading
import time
from collections.abc import Callable

import pytest

from otel_fastperf.awaiting.naming import _lock, name_of_c_call

LOCK = threading.Lock()
REENTRANT = threading.RLock()


class Counter:
    def __init__(self) -> None:
        self.lock = LOCK

    def enter(self) -> None:
        with self.lock:
            pass

    def acquire(self) -> None:
        self.lock.acquire()
        self.lock.release()


def enter() -> None:
    with LOCK:
        pass


def enter_reentrant() -> None:
    with REENTRANT:
        time.sleep(0)


def sleeps() -> None:
    time.sleep(1.0)


def names_while_it_waits(function: Callable[[], None], wanted: tuple[str, str]) -> set[tuple[str, str]]:
    """The names of what the function calls while both locks are taken, up to the `wanted` one."""
    found: set[tuple[str, str]] = set()
    with LOCK, REENTRANT:
        thread = threading.Thread(target=function)
        thread.start()
        until = time.monotonic() + 30
        while wanted not in found and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
            frame = sys._current_frames().get(thread.ident or 0)
            found |= set() if frame is None else {name_of_c_call(frame)}
    thread.join()
    return found


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (enter, ("threading", "Lock.acquire")),
        (Counter().enter, ("threading", "Lock.acquire")),
        (Counter().acquire, ("threading", "Lock.acquire")),
        (enter_reentrant, ("threading", "RLock.acquire")),
        (sleeps, ("time", "time.sleep")),
    ],
)
def test_a_wait_for_a_lock_is_named_as_a_block_and_as_a_call(
    function: Callable[[], None], name: tuple[str, str]
) -> None:
    assert name in names_while_it_waits(function, name)


def test_looking_changes_no_variable_of_a_function_that_runs() -> None:
    """Before Python 3.13 the variables of a frame are a copy. It is made anew at each look, and never written back."""
    looked, ended = threading.Event(), threading.Event()
    counted: list[int] = []
    kept: list[object] = []

    def counts() -> None:
        total, lock, gone = 0, LOCK, "gone"
        looked.wait(30)
        del gone
        while not ended.is_set():
            with lock:
                total += 1
                counted.append(total)
            time.sleep(0)
        kept.extend((total, lock, "gone" in locals()))

    thread = threading.Thread(target=counts)
    thread.start()
    code = counts.__code__
    looks = 0
    while looks < 300 or not counted:
        frame = sys._current_frames()[thread.ident or 0]
        while frame.f_back is not None and frame.f_code is not code:
            frame = frame.f_back
        if frame.f_code is code:
            looks += _lock(frame, "lock") == "Lock"
            name_of_c_call(frame)
            looked.set()
    ended.set()
    thread.join()
    assert counted == list(range(1, len(counted) + 1))
    assert kept == [len(counted), LOCK, False]

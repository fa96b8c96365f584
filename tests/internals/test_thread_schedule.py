"""What the kernel knows of a thread."""

import threading
import time
from collections.abc import Callable

import pytest

from otel_fastperf.internals.thread_schedule import ScheduleFile, SleepFile

pytestmark = pytest.mark.skipif(
    ScheduleFile(threading.get_native_id()).read() is None,
    reason="this kernel does not count, see /proc/self/schedstat",
)


def test_a_thread_that_sleeps_needs_no_processor_and_gets_one_when_it_wakes_up() -> None:
    file = ScheduleFile(threading.get_native_id())
    before = file.read()
    started = time.perf_counter()
    for _ in range(5):
        time.sleep(0.02)
    passed = time.perf_counter() - started
    after = file.read()
    file.close()
    assert file.read() is None
    assert before is not None
    assert after is not None
    assert after.turns - before.turns >= 5
    assert 0 <= after.starved - before.starved < passed


def test_the_schedule_of_a_thread_that_has_ended_is_unknown() -> None:
    files: list[ScheduleFile] = []
    thread = threading.Thread(target=lambda: files.append(ScheduleFile(threading.get_native_id())))
    thread.start()
    thread.join()
    time.sleep(0.05)
    assert files[0].read() is None


def test_a_thread_that_waits_for_a_lock_is_told_from_one_that_sleeps() -> None:
    lock, ids = threading.Lock(), []

    def of(sleep: Callable[[], object]) -> SleepFile:
        def run() -> None:
            ids.append(threading.get_native_id())
            sleep()

        threading.Thread(target=run).start()
        time.sleep(0.1)
        return SleepFile(ids.pop())

    with lock:
        waiting, sleeping = of(lock.acquire), of(lambda: time.sleep(0.5))
        if not waiting.waits_for_lock():
            pytest.skip("this kernel does not tell in which of its functions a thread sleeps, see /proc/self/wchan")
        assert not sleeping.waits_for_lock()
    waiting.close()
    assert not waiting.waits_for_lock()

"""What the kernel knows of a thread."""

import threading
import time

import pytest

from otel_fastperf.internals.thread_schedule import ScheduleFile

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

"""How long a thread has run, from another thread, which it may not outlive."""

import threading
import time

import pytest

from otel_fastperf.awaiting.threads import _ran, _ran_at_least


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="this system has no clock for each thread")
def test_the_processor_time_of_a_thread_is_read_without_the_scheduler_s_counts() -> None:
    mine = time.thread_time()
    assert mine <= _ran_at_least(threading.get_native_id()) <= time.thread_time()


def test_a_thread_that_has_ended_has_not_run() -> None:
    """`time.pthread_getcpuclockid` would end the process."""
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    assert thread.ident is not None
    assert thread.native_id is not None
    assert _ran(thread.ident) == 0
    # the kernel's thread ends a moment after Python's
    assert 0 <= _ran_at_least(thread.native_id) < 1

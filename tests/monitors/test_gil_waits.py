"""The watchdog's waits for the GIL, counted by the kernel or inferred."""

import time

import pytest

from otel_fastperf.monitors import gil_waits
from otel_fastperf.monitors.gil_waits import GilWaits


def test_the_sleep_itself_is_no_wait() -> None:
    assert 0 in {failed_in_a_sleep() for _ in range(50)}, "other threads may have the GIL at its end, but not each time"


def failed_in_a_sleep() -> int:
    waits = GilWaits()
    time.sleep(0.01)
    return waits.failed(0.0)


def test_uncounted_waits_are_those_of_a_process_that_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(gil_waits, "getrusage")
    waits = GilWaits()
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert waits.failed(0.05) == 10
    # it was stopped
    assert waits.failed(5.0) == 0

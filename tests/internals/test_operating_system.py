"""What is asked of the operating system, where it tells it and where it does not."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from otel_fastperf.internals import operating_system
from otel_fastperf.internals.operating_system import ThreadClock, untold_memory


def compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def seen_by_another_thread(clock: ThreadClock) -> float:
    def look() -> float:
        compute(0.02)
        return clock.seconds()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(look).result()


def test_another_thread_reads_the_clock_of_the_thread_that_made_it() -> None:
    clock = ThreadClock()
    compute(0.05)
    before, seen = time.thread_time(), seen_by_another_thread(clock)
    assert clock.is_exact
    assert before <= seen <= time.thread_time()


def test_without_such_a_clock_another_thread_gets_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "pthread_getcpuclockid")
    clock = ThreadClock()
    own = clock.seconds()
    compute(0.05)
    assert not clock.is_exact
    assert seen_by_another_thread(clock) == own
    assert clock.seconds() >= own + 0.05


def test_figures_of_memory_are_untold_if_their_files_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operating_system, "PROC", tmp_path)
    (tmp_path / "cgroup").touch()
    assert untold_memory() == ("RSS", "USS")

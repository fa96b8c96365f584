"""Allocation sites on demand: the lines that kept memory while it was traced."""

import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_fastperf.errors import AllocationsError
from otel_fastperf.memory.allocations import AllocationReport, AllocationSite, allocations

MIB = 1024 * 1024
HERE = Path(__file__)


def line_of(code: str) -> int:
    return next(number for number, line in enumerate(HERE.read_text().splitlines(), 1) if line.strip() == code)


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Repeat the work every hundredth of a second in another thread."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.01):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_the_line_that_keeps_memory_comes_first_with_its_bytes() -> None:
    kept: list[bytearray] = []

    def keep() -> None:
        kept.append(bytearray(MIB))

    with meanwhile(keep):
        report = allocations(0.5)
    site = report.sites[0]
    assert (Path(site.file), site.line) == (HERE, line_of("kept.append(bytearray(MIB))"))
    assert MIB <= site.size <= len(kept) * (MIB + 1024)
    assert site.application
    assert 0.5 <= report.seconds < 5
    assert str(report).splitlines()[1].startswith(f"memory/test_allocations.py:{site.line}: ")


def test_freed_memory_does_not_count() -> None:
    def use() -> None:
        bytearray(MIB)

    with meanwhile(use):
        report = allocations(0.3)
    assert sum(site.size for site in report.sites) < MIB


def test_with_more_frames_allocations_of_a_library_count_for_the_calling_line() -> None:
    document, kept = json.dumps(["x" * 1000 for _ in range(1000)]), []

    def load() -> None:
        kept.append(json.loads(document))

    with meanwhile(load):
        shallow, deep = allocations(0.3), allocations(0.3, frames=8)
    assert not shallow.sites[0].application
    assert (Path(deep.sites[0].file), deep.sites[0].line) == (HERE, line_of("kept.append(json.loads(document))"))


def test_tracemalloc_runs_only_during_the_call() -> None:
    assert not tracemalloc.is_tracing()
    with meanwhile(lambda: None):
        allocations(0.05)
    assert not tracemalloc.is_tracing()


def test_running_tracing_continues_and_only_the_difference_counts() -> None:
    tracemalloc.start()
    try:
        before = bytearray(8 * MIB)
        report = allocations(0.05)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    assert before
    assert all(site.size < MIB for site in report.sites)


def test_a_concurrent_call_is_refused() -> None:
    first = threading.Thread(target=allocations, args=(0.5,))
    first.start()
    deadline = time.monotonic() + 10
    while not tracemalloc.is_tracing():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(AllocationsError, match="already"):
        allocations(0.1)
    first.join()
    assert not tracemalloc.is_tracing()
    assert allocations(0.01).seconds > 0


@pytest.mark.parametrize("arguments", [{"seconds": 0}, {"seconds": 61}, {"most": 0}, {"most": 101}, {"frames": 0}])
def test_arguments_are_bounded(arguments: Any) -> None:
    with pytest.raises(AllocationsError, match="up to 60 seconds"):
        allocations(**arguments)
    assert not tracemalloc.is_tracing()


def test_the_report_is_limited_and_has_no_line_of_ours_or_of_imports() -> None:
    kept: list[object] = []
    with meanwhile(lambda: kept.append([{}, [], set()])):
        report = allocations(0.2, most=2)
    assert len(report.sites) <= 2
    assert not [site for site in allocations(0.1).sites if "/otel_fastperf/" in site.file or "<frozen" in site.file]


def test_a_report_is_shown_as_a_table() -> None:
    site = AllocationSite("/srv/shop/pages.py", 27, 40 * MIB, 80, application=True)
    assert str(AllocationReport(10.0, (site,), 41 * MIB)) == (
        "41,984 KiB more after 10.0 s\nshop/pages.py:27: 40,960 KiB in 80 blocks"
    )

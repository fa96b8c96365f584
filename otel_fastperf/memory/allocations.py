"""The lines of the application that allocate lasting memory: tracemalloc, on demand and for a few seconds.

tracemalloc slows every allocation of the process down (see `allocations`), so nothing here runs automatically.
"""

import threading
import time
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from otel_fastperf.errors import AllocationsError
from otel_fastperf.internals.frames import is_application, is_own

#: bounds of a trace in seconds; `allocations` itself also takes less than the lower one, which tests need
SHORTEST: Final = 1.0
LONGEST: Final = 60.0
#: upper bounds of lines and frames
MOST: Final = 100
MOST_FRAMES: Final = 25

#: there is one tracemalloc per process: two users would stop it for each other
_ONE_AT_A_TIME: Final = threading.Lock()

_NOT_OF_INTEREST: Final = (
    "<frozen importlib._bootstrap>",
    "<frozen importlib._bootstrap_external>",
    tracemalloc.__file__,
)


@dataclass(frozen=True, slots=True)
class AllocationSite:
    """A line and the memory it allocated that was not freed before the end.

    Attributes:
        file: Path of the source file.
        line: Line number.
        size: Increase in bytes.
        count: Increase in memory blocks.
        application: Whether the line belongs to the application. False if no frame of the application was recorded.
    """

    file: str
    line: int
    size: int
    count: int
    application: bool

    def __str__(self) -> str:
        """Format as `shop/pages.py:27: 40,960 KiB in 80 blocks`, with the last two parts of the path."""
        parts = self.file.replace("\\", "/").split("/")
        return f"{'/'.join(parts[-2:])}:{self.line}: {self.size / 1024:,.0f} KiB in {self.count:,} blocks"


@dataclass(frozen=True, slots=True)
class AllocationReport:
    """Memory that was allocated while tracing and not freed before the end.

    Attributes:
        seconds: Duration of the tracing.
        sites: The lines that allocated it, most bytes first.
        size: Increase in bytes, over all lines.
    """

    seconds: float
    sites: tuple[AllocationSite, ...]
    size: int

    def __str__(self) -> str:
        """Format as a heading and one line per site."""
        head = f"{self.size / 1024:,.0f} KiB more after {self.seconds:.1f} s"
        return "\n".join((head, *map(str, self.sites)))


def allocations(seconds: float = 10.0, most: int = 20, *, frames: int = 1) -> AllocationReport:
    """Trace all allocations of the process for a while and report the lines that kept most memory.

    Blocks the calling thread: in a coroutine, call `await asyncio.to_thread(allocations, 10)`. The app keeps serving
    requests, but each takes about twice as long. If tracemalloc is already running (`PYTHONTRACEMALLOC`), it is used
    as configured and left running.

    Args:
        seconds: Duration, up to 60.
        most: Maximum number of lines in the report, up to 100.
        frames: Recorded frames per allocation, up to 25. With more than one, allocations of a library are attributed to
            the line of the application that called it; with five, requests take about five times as long.

    Raises:
        AllocationsError: Allocations are already being traced, or an argument is out of bounds.
    """
    if not (0 < seconds <= LONGEST and 1 <= most <= MOST and 1 <= frames <= MOST_FRAMES):
        message = (
            f"allocations(seconds={seconds:g}, most={most}, frames={frames}) is out of bounds. Remedy: pass up to"
            f" {LONGEST:.0f} seconds, 1 to {MOST} lines and 1 to {MOST_FRAMES} frames."
        )
        raise AllocationsError(message)
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        message = "Allocations are already being traced. Remedy: try again when that has ended."
        raise AllocationsError(message)
    try:
        return _traced(seconds, most, frames)
    finally:
        _ONE_AT_A_TIME.release()


def _traced(seconds: float, most: int, frames: int) -> AllocationReport:
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start(frames)
    try:
        # if tracing has just started, there are no earlier allocations to compare with
        before = tracemalloc.take_snapshot() if running else None
        started = time.perf_counter()
        time.sleep(seconds)
        passed = time.perf_counter() - started
        after = tracemalloc.take_snapshot()
    finally:
        if not running:
            tracemalloc.stop()
    return _report(before, after, passed, most)


def _report(
    before: tracemalloc.Snapshot | None, after: tracemalloc.Snapshot, seconds: float, most: int
) -> AllocationReport:
    sums: dict[tuple[str, int], list[int]] = {}
    for traceback, size, count in _differences(before, after):
        site = _site_of(traceback)
        if site is not None:
            total = sums.setdefault(site, [0, 0])
            total[0] += size
            total[1] += count
    sites = [
        AllocationSite(file, line, size, count, application=is_application(file))
        for (file, line), (size, count) in sums.items()
        if size > 0
    ]
    sites.sort(key=lambda site: -site.size)
    return AllocationReport(seconds, tuple(sites[:most]), sum(size for size, _ in sums.values()))


def _differences(
    before: tracemalloc.Snapshot | None, after: tracemalloc.Snapshot
) -> Iterable[tuple[tracemalloc.Traceback, int, int]]:
    if before is None:
        return ((each.traceback, each.size, each.count) for each in after.statistics("traceback"))
    return ((each.traceback, each.size_diff, each.count_diff) for each in after.compare_to(before, "traceback"))


def _site_of(traceback: tracemalloc.Traceback) -> tuple[str, int] | None:
    """Return the application's line closest to the allocation, or else the allocating line; None if it is ours."""
    frames = [(frame.filename, frame.lineno) for frame in reversed(traceback)]
    if not frames or frames[0][0] in _NOT_OF_INTEREST:
        return None
    site = next((frame for frame in frames if is_application(frame[0])), frames[0])
    return None if is_own(site[0]) else site

"""Which lines of the application allocate what stays: tracemalloc, on demand and for some seconds only.

It makes every allocation of the process slower while it runs (see `allocations`), so nothing here runs by itself.
"""

import threading
import time
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from otel_fastperf.errors import AllocationsError
from otel_fastperf.internals.frames import is_application, is_own

#: the longest that one may ask for, in seconds, and the most lines and frames
LONGEST: Final = 60.0
MOST: Final = 100
MOST_FRAMES: Final = 25

#: tracemalloc is the process's: two at once would stop it for each other
_ONE_AT_A_TIME: Final = threading.Lock()

_NOT_OF_INTEREST: Final = (
    "<frozen importlib._bootstrap>",
    "<frozen importlib._bootstrap_external>",
    tracemalloc.__file__,
)


@dataclass(frozen=True, slots=True)
class Site:
    """A line, and what it allocated that was still there at the end."""

    file: str
    line: int
    #: bytes and blocks more than at the beginning
    size: int
    count: int
    #: the line is the application's; False where none of it stood in the last frames before the allocation
    application: bool

    def __str__(self) -> str:
        """`shop/pages.py:27: 40,960 KiB in 80 blocks`: the last two parts of the path are enough to find it."""
        parts = self.file.replace("\\", "/").split("/")
        return f"{'/'.join(parts[-2:])}:{self.line}: {self.size / 1024:,.0f} KiB in {self.count:,} blocks"


@dataclass(frozen=True, slots=True)
class AllocationReport:
    """What was allocated in so many seconds and still there at the end, most bytes first."""

    seconds: float
    sites: tuple[Site, ...]
    #: bytes more than at the beginning, of all lines
    size: int

    def __str__(self) -> str:
        """One line for each site."""
        head = f"{self.size / 1024:,.0f} KiB more after {self.seconds:.1f} s"
        return "\n".join((head, *map(str, self.sites)))


def allocations(seconds: float = 10.0, most: int = 20, *, frames: int = 1) -> AllocationReport:
    """Trace all allocations of the process for some seconds; the lines that kept most memory.

    Blocks the calling thread meanwhile: from a coroutine, call it as `await asyncio.to_thread(allocations, 10)`. The
    app serves on, and takes about twice as long for a request. tracemalloc that runs already (`PYTHONTRACEMALLOC`) is
    used as it is, and goes on.

    Args:
        seconds: How long, up to 60.
        most: Lines in the report, up to 100.
        frames: Frames of each allocation, up to 25. With more than one, what a library allocates counts for the line of
            the application that led to it; with five, a request takes about five times as long.

    Raises:
        AllocationsError: Somebody else is about it, or an argument is out of bounds.
    """
    if not (0 < seconds <= LONGEST and 1 <= most <= MOST and 1 <= frames <= MOST_FRAMES):
        message = f"allocations takes up to {LONGEST:.0f} seconds, 1 to {MOST} lines and 1 to {MOST_FRAMES} frames"
        raise AllocationsError(message)
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        message = "allocations are being traced already; ask again when that is over"
        raise AllocationsError(message)
    try:
        return _traced(seconds, most, frames)
    finally:
        _ONE_AT_A_TIME.release()


def _traced(seconds: float, most: int, frames: int) -> AllocationReport:
    foreign = tracemalloc.is_tracing()
    if not foreign:
        tracemalloc.start(frames)
    try:
        # who traces all the time has a first snapshot to compare with; else there is nothing before
        before = tracemalloc.take_snapshot() if foreign else None
        started = time.perf_counter()
        time.sleep(seconds)
        passed = time.perf_counter() - started
        after = tracemalloc.take_snapshot()
    finally:
        if not foreign:
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
        Site(file, line, size, count, application=is_application(file))
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
    """The application's line that is nearest to the allocation, else the allocation's own; None for our own."""
    frames = [(frame.filename, frame.lineno) for frame in reversed(traceback)]
    if not frames or frames[0][0] in _NOT_OF_INTEREST:
        return None
    site = next((frame for frame in frames if is_application(frame[0])), frames[0])
    return None if is_own(site[0]) else site

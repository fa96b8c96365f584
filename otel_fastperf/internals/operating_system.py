"""What the operating system tells a process of itself.

Linux tells all of it in `/proc`. macOS and Windows tell less, and so do some sandboxes of Linux.
"""

import threading
import time
from pathlib import Path
from typing import Final

from otel_fastperf.internals.thread_schedule import ScheduleFile

PROC: Final = Path("/proc/self")


def untold_memory() -> tuple[str, ...]:
    """The figures of memory that this system does not tell."""
    files = {"RSS": "stat", "USS": "smaps_rollup", "cgroup": "cgroup"}
    return tuple(figure for figure, file in files.items() if not (PROC / file).is_file())


def tells_schedules() -> bool:
    """Whether it tells how long a thread slept and how long it had no processor."""
    return ThreadClock().is_exact and ScheduleFile(threading.get_native_id()).read() is not None


class ThreadClock:
    """The CPU time of the thread that makes it, for other threads too.

    Attributes:
        is_exact: False if another thread gets what the thread itself has read last. macOS and Windows show a thread's
            CPU time to no other one.
    """

    __slots__ = ("_clock", "_read", "_thread", "is_exact")

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._read = 0.0
        self.is_exact: bool = hasattr(time, "pthread_getcpuclockid")
        # asked by the thread itself: the call may crash for a thread that has ended
        self._clock = time.pthread_getcpuclockid(self._thread) if self.is_exact else None

    def seconds(self) -> float:
        """Read the clock."""
        if self._clock is not None:
            return time.clock_gettime(self._clock)
        if threading.get_ident() == self._thread:
            self._read = time.thread_time()
        return self._read

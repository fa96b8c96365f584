"""How the kernel schedules a thread: how long it was ready to run and had no processor, and how often it got one.

Linux counts both in `/proc/self/task/TID/schedstat`, https://docs.kernel.org/scheduler/sched-stats.html. Elsewhere, and
in some sandboxes, they are unknown. The time without a processor is complete when the thread runs: while it waits, the
wait that is under way is missing.

`/proc/self/task/TID/wchan` has the function of the kernel in which a thread sleeps,
https://man7.org/linux/man-pages/man5/proc_pid_wchan.5.html.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Final, NamedTuple

#: part of the names of the kernel's functions in which a thread waits for a lock, such as `futex_do_wait`
_LOCK: Final = b"futex"
#: bytes; three numbers of up to 20 digits, or the name of a function
_MOST_BYTES: Final = 80


class ThreadSchedule(NamedTuple):
    """Since the start of a thread.

    Attributes:
        starved: Seconds in which it was ready to run and had no processor.
        turns: How often it got one.
    """

    starved: float
    turns: int


class _ThreadFile:
    """What the kernel knows of one thread of this process. The file stays open: opening costs more."""

    _NAME: str

    def __init__(self, thread: int) -> None:
        """`thread` is a native id."""
        try:
            self._file = os.open(f"/proc/self/task/{thread}/{self._NAME}", os.O_RDONLY)
        except OSError:
            self._file = -1

    def _content(self) -> bytes:
        """Empty if it is unknown, or if the thread has ended."""
        if self._file < 0:
            return b""
        try:
            return _reader()(self._file)
        except OSError:
            return b""

    def close(self) -> None:
        """Close the file. Afterwards what it told is unknown."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    __del__ = close


class ScheduleFile(_ThreadFile):
    """The schedule of a thread."""

    _NAME = "schedstat"

    def read(self) -> ThreadSchedule | None:
        """The schedule so far; None if unknown, or if the thread has ended."""
        try:
            _ran, starved, turns = self._content().split()
            return ThreadSchedule(int(starved) / 1e9, int(turns))
        except ValueError:
            return None


class SleepFile(_ThreadFile):
    """Where a thread sleeps."""

    _NAME = "wchan"

    def waits_for_lock(self) -> bool:
        """Whether it waits for a lock, such as Python's GIL. False also if that is unknown."""
        return _LOCK in self._content()


@cache
def _reader() -> Callable[[int], bytes]:
    """Reads a small file of the kernel from its start.

    `os.pread` lets go of the GIL, and gets it back late while other threads compute: 5 ms for each of many threads.
    """
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        pread = ctypes.PyDLL(None).pread
        pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
        pread.restype = ctypes.c_ssize_t

        def read(file: int) -> bytes:
            # two threads may read at the same time
            buffer = ctypes.create_string_buffer(_MOST_BYTES)
            length = pread(file, buffer, _MOST_BYTES, 0)
            return buffer.raw[: max(length, 0)]

        return read
    return lambda file: os.pread(file, _MOST_BYTES, 0)

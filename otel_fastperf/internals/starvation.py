"""How long the threads of this process were ready to run while other processes had the processors.

On a busy machine whatever a request waits for takes longer: a statement of a database in the process, a thread of a
pool, an answer that has arrived and that nobody reads. None of them is to blame. So what is judged by its duration is
judged without that time.

The kernel counts for each thread how long it had no processor (`ThreadSchedule`), since the thread's start. The threads
are read some ten times a second while the process works, once a second while it does not, and when something took long,
so a request that did not take long costs nothing. Without a reading from shortly before a wait, nothing is known of it.
"""

import os
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from otel_fastperf.internals.forks import on_fork
from otel_fastperf.internals.thread_schedule import ScheduleFile

#: readings that are kept: the last half minute, or 5 seconds in which something takes long all the time
_MOST_READINGS: Final = 256
#: seconds from one regular reading to the next, while the process works and while it does not
_PAUSE: Final = 0.08
_IDLE_PAUSE: Final = 1.0
#: seconds; an earlier reading has too much that was lost long before the wait
_TOO_OLD: Final = 3.0
#: seconds; a reading that old is as good as a new one. Share of one core that readings may take
_FRESH: Final = 0.02
_SHARE: Final = 0.005
#: seconds between two readings of a process at work, at most
_LONG_AGO: Final = 0.25
_PAIR: Final = 2
#: CPU seconds that a process uses which works
_AT_WORK: Final = 0.001
#: threads that are read
_MOST_THREADS: Final = 128
#: threads of this package, which no request waits for, except for a lock
_OWN: Final = "otel_fastperf-"
#: threads that work for a request one after the other: that of its event loop, and one of a pool or of a driver
_INVOLVED: Final = 2
#: where cgroup v2 says how much of the processors a container may use: microseconds in a period, or `max`
_LIMIT: Final = Path("/sys/fs/cgroup/cpu.max")


class _ThreadsAt(NamedTuple):
    """What was read at one time, by `time.perf_counter()`.

    Attributes:
        cpu: CPU seconds of the process.
        starved: Seconds without a processor by native id of the thread.
        own: The threads among them that are this package's.
    """

    at: float
    cpu: float
    starved: dict[int, float]
    own: frozenset[int] = frozenset()


class Starvation:
    """Readings of the threads of this process. Safe to use from any thread."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._readings: deque[_ThreadsAt] = deque(maxlen=_MOST_READINGS)
        self._files: dict[int, ScheduleFile] = {}
        self._reading = threading.Lock()
        self._processors = 0.0
        self._rest = _FRESH
        #: the kernel does not tell
        self._unknown = False
        on_fork(after_in_child=self._forget)

    def note(self, *, waits: bool = False) -> None:
        """Read the threads if it is time for that; sooner if something `waits` for one, which may end before then."""
        if self._unknown:
            return
        last = self._readings[-1] if self._readings else None
        passed = _IDLE_PAUSE if last is None else time.perf_counter() - last.at
        worked = passed >= _PAUSE and last is not None and time.process_time() - last.cpu >= _AT_WORK
        if worked or passed >= (max(_PAUSE, self._rest) if waits else _IDLE_PAUSE):
            self._read()

    def seconds(self, start: float, end: float) -> float:
        """Seconds between two times at which a request may have had no processor.

        They are those of the two threads that starved most. If the process itself kept its processors busy, other
        processes had less to do with it. 0 if nobody has looked shortly before, or if the kernel does not tell.
        """
        lost, by_others = self._lost(start, end, with_own=False)
        return min(sum(sorted(lost.values())[-_INVOLVED:]), end - start) * by_others

    def of_another(self, thread: int, start: float, end: float) -> float:
        """The same for the one that starved most apart from `thread`, a native id, of this package's threads too."""
        lost, by_others = self._lost(start, end, with_own=True)
        lost.pop(thread, None)
        return min(max(lost.values(), default=0.0), end - start) * by_others

    def _lost(self, start: float, end: float, *, with_own: bool) -> tuple[dict[int, float], float]:
        """Seconds without a processor by thread, and the share of them that other processes account for."""
        if self._unknown or not self._readings:
            return {}, 0.0
        last = self._readings[-1].at
        if last < end and time.perf_counter() - last >= self._rest:
            self._read()
        readings = self._around(start, end)
        if len(readings) < _PAIR or start - readings[0].at > _TOO_OLD:
            return {}, 0.0
        before = _between(readings[0], readings[1], start, latest=False)
        after = _between(readings[-2], readings[-1], end, latest=True)
        # a thread may have ended meanwhile
        totals = {thread: total for each in (*readings[1:-1], after) for thread, total in each.starved.items()}
        left_out = frozenset[int]().union(*(each.own for each in readings)) if not with_own else frozenset[int]()
        lost = {
            thread: _since(before.starved.get(thread, 0.0), total)
            for thread, total in totals.items()
            if thread not in left_out
        }
        by_itself = (after.cpu - before.cpu) / ((after.at - before.at) * self._processors)
        return lost, min(max(1.0 - by_itself, 0.0), 1.0)

    def _around(self, start: float, end: float) -> list[_ThreadsAt]:
        """The readings from the last one before `start` to the first one after `end`, oldest first."""
        found: list[_ThreadsAt] = []
        # by number: another thread may append meanwhile, which ends an iteration with an error
        for back in range(1, len(self._readings) + 1):
            reading = self._readings[-back]
            if reading.at >= end:
                found.clear()
            found.append(reading)
            if reading.at <= start:
                break
        return found[::-1]

    def _read(self) -> None:
        if not self._reading.acquire(blocking=False):
            return  # another thread reads
        cpu = time.thread_time()
        try:
            starved: dict[int, float] = {}
            own: set[int] = set()
            for thread in threading.enumerate()[:_MOST_THREADS]:
                # the first thread of a forked process remembers the id that it had before
                native = os.getpid() if thread is threading.main_thread() else thread.native_id
                if native is None:
                    continue
                if thread.name.startswith(_OWN):
                    own.add(native)
                file = self._files.get(native) or self._files.setdefault(native, ScheduleFile(native))
                schedule = file.read()
                if schedule is not None:
                    starved[native] = schedule.starved
            for ended in self._files.keys() - starved.keys():
                self._files.pop(ended).close()
            self._processors = self._processors or _processors()
            self._unknown = not starved
            self._rest = max(_FRESH, (time.thread_time() - cpu) / _SHARE)
            self._readings.append(_ThreadsAt(time.perf_counter(), time.process_time(), starved, frozenset(own)))
        finally:
            self._reading.release()

    def _forget(self) -> None:
        """In a forked child: its threads are others."""
        self._reading = threading.Lock()
        self._readings = deque(maxlen=_MOST_READINGS)
        for file in self._files.values():
            file.close()
        self._files.clear()


def _between(before: _ThreadsAt, after: _ThreadsAt, at: float, *, latest: bool) -> _ThreadsAt:
    """What would have been read at this time.

    If the process did nothing for the most part between the two readings, what was lost was lost near the request: as
    much as possible before this time if it is the `latest` of the request, or else after it.
    """
    if not before.at < at < after.at:
        return after if latest else before
    passed, left = at - before.at, after.at - at
    share = left / (passed + left)
    starved: dict[int, float] = {}
    for thread, total in after.starved.items():
        lost = _since(before.starved.get(thread, 0.0), total)
        later = max(lost - passed, 0.0) if latest else min(lost, left)
        starved[thread] = total - (share * lost if passed + left <= _LONG_AGO else later)
    return _ThreadsAt(at, after.cpu - share * (after.cpu - before.cpu), starved)


def _since(before: float, now: float) -> float:
    # a new thread may have the number of one that has ended
    return now - before if now >= before else now


def _processors() -> float:
    """How many the process may use: those that it may run on, or fewer by the limit of its container."""
    number = float(os.cpu_count() or 1)
    with suppress(AttributeError, OSError):
        number = float(len(os.sched_getaffinity(0)))
    with suppress(OSError, ValueError):
        quota, period = _LIMIT.read_text().split()
        number = min(number, int(quota) / int(period))
    return number

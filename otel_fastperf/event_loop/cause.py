"""Why the event loop was blocked, as measured, not guessed from the code.

    gc            the garbage collector ran
    cpu           the loop's thread computed, and released the GIL on request
    gil_held      a thread kept the GIL in a call into C code, or other threads had it and computed
    sync_io       the loop's thread slept in a system call, without the GIL
    descheduled   no thread of the process ran: it was stopped or throttled, or other processes had the processors

While the loop is blocked, the watchdog asks for the GIL again and again. A thread that waits for the GIL wakes up every
5 ms (`sys.getswitchinterval`); a stopped one does not. So the watchdog's voluntary context switches tell how long it
waited for the GIL.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: share of a block that decides on its cause
_MOST: Final = 0.5
#: minimum CPU share of a collection that ran on the loop's thread, however busy the machine is
_OWN: Final = 0.2
#: below this CPU share the thread counts as not running
_FAIR: Final = 0.02


class BlockedBy(StrEnum):
    """The label `cause` of `fastperf_event_loop_blocked_seconds`."""

    SYNC_IO = "sync_io"
    CPU = "cpu"
    GC = "gc"
    GIL_HELD = "gil_held"
    DESCHEDULED = "descheduled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured during a block, in seconds except for the last two.

    Attributes:
        cpu: CPU time of the loop's thread.
        others_cpu: CPU time of the other threads of the process.
        gc: Pauses of the garbage collector, in any thread.
        stopped: Time in which the watchdog should have run, did not run, and did not wait for the GIL.
        gil_wait: The watchdog's longest wait for the GIL.
        asleep: Share of samples in which the GIL was free and the loop's thread slept; None without samples.
        idle: True if no sample shows the loop's thread in a callback.
    """

    seconds: float
    cpu: float = 0.0
    others_cpu: float = 0.0
    gc: float = 0.0
    stopped: float = 0.0
    gil_wait: float = 0.0
    asleep: float | None = None
    idle: bool = False


def blocked_by(measured: Measurement, threshold: float) -> BlockedBy:
    """The cause of a block. Code that computes for `threshold` seconds is the cause, even if it was slowed down."""
    most = _MOST * measured.seconds
    if measured.gc >= most and measured.cpu >= _OWN * measured.gc:
        return BlockedBy.GC
    if measured.cpu >= min(most, threshold):
        return BlockedBy.GIL_HELD if measured.gil_wait >= most else BlockedBy.CPU
    if measured.stopped >= most:
        return BlockedBy.DESCHEDULED
    if measured.asleep is not None and measured.asleep >= _MOST and not measured.idle:
        return BlockedBy.SYNC_IO
    return _kept_from_running(measured, most)


def _kept_from_running(measured: Measurement, most: float) -> BlockedBy:
    """The loop's thread did not run, and another thread may have had the GIL."""
    if measured.gc >= most:
        return BlockedBy.GC
    if measured.gil_wait >= most:
        return BlockedBy.GIL_HELD
    if measured.asleep is not None and measured.cpu < _FAIR * measured.seconds and not measured.idle:
        # threads that wait for the GIL get it in turn, so this thread did not wait for it
        return BlockedBy.SYNC_IO
    return BlockedBy.GIL_HELD if measured.others_cpu >= most else BlockedBy.DESCHEDULED


def by_other_threads(measured: Measurement) -> bool:
    """True if other threads computed with the GIL and the loop's thread did not, so its code is not the cause."""
    most = _MOST * measured.seconds
    return measured.cpu < most <= measured.others_cpu


def lost(measured: Measurement, cause: BlockedBy) -> float:
    """Seconds not caused by the code: garbage was collected, or the computing thread had no processor."""
    if cause is BlockedBy.CPU:
        return measured.seconds - max(0.0, measured.cpu - measured.gc)
    return measured.gc

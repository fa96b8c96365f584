"""Why the event loop was held: told from what was measured meanwhile, without a guess at what the code might be doing.

    gc            the garbage collector ran
    cpu           the loop's thread computed, and gave the GIL to whoever asked for it
    gil_held      one thread kept the GIL, in a call into C code; or other threads had it, and computed
    sync_io       the loop's thread slept in a system call, and did not have the GIL
    descheduled   nobody of this process ran: it was stopped or throttled, or the machine gave its processors to others

The watchdog asks for the GIL again and again while the loop is held. Who waits for the GIL wakes up every 5 ms
(`sys.getswitchinterval`), who is stopped does not: its voluntary context switches tell how long it waited for the GIL.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: the part of a hold that decides
_MOST: Final = 0.5
#: a collection that ran on the loop's thread took at least this part of its time there, however busy the machine
_OWN: Final = 0.2
#: less of the CPU than this part is no share of it
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
    """What was measured while the loop was held. All in seconds but the last two."""

    seconds: float
    #: CPU time of the loop's thread
    cpu: float = 0.0
    #: CPU time of the process's other threads
    others_cpu: float = 0.0
    #: pauses of the garbage collector, in whichever thread
    gc: float = 0.0
    #: the watchdog did not run though it was its time, and did not wait for the GIL
    stopped: float = 0.0
    #: the longest time that the watchdog waited for the GIL
    gil_wait: float = 0.0
    #: how often the watchdog found the GIL free and the loop's thread asleep, as a share; None when it never looked
    asleep: float | None = None
    #: no sample shows the loop's thread in a callback
    idle: bool = False


def blocked_by(measured: Measurement, threshold: float) -> BlockedBy:
    """What took most of the time. Code that computes for `threshold` seconds is the cause, whatever made it slower."""
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
    """The loop's thread did not run, and somebody else had the GIL."""
    if measured.gc >= most:
        return BlockedBy.GC
    if measured.gil_wait >= most:
        return BlockedBy.GIL_HELD
    if measured.asleep is not None and measured.cpu < _FAIR * measured.seconds and not measured.idle:
        # who wants the GIL gets it in turn; this thread did not want it
        return BlockedBy.SYNC_IO
    return BlockedBy.GIL_HELD if measured.others_cpu >= most else BlockedBy.DESCHEDULED


def by_other_threads(measured: Measurement) -> bool:
    """True when others had the GIL and computed, and the loop's thread did not: its code is not to blame."""
    most = _MOST * measured.seconds
    return measured.cpu < most <= measured.others_cpu


def lost(measured: Measurement, cause: BlockedBy) -> float:
    """Seconds for which the code is not to blame: garbage was collected, or what computes had no processor."""
    if cause is BlockedBy.CPU:
        return measured.seconds - max(0.0, measured.cpu - measured.gc)
    return measured.gc

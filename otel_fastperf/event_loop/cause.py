"""Why the event loop was blocked, as measured, not guessed from the code.

    gc            the garbage collector ran
    cpu           the loop's thread computed, and released the GIL on request
    gil_held      a thread kept the GIL in a call into C code, or other threads had it and computed
    sync_io       the loop's thread slept in a system call, without the GIL
    descheduled   no thread with work got a processor: other processes had them, or the process was stopped or throttled

While the loop is blocked, the watchdog asks for the GIL again and again. A thread that waits for the GIL wakes up every
5 ms (`sys.getswitchinterval`); a stopped one does not. So the watchdog's voluntary context switches tell how long it
waited for the GIL.

A thread that is not running sleeps, or is ready and gets no processor; only the kernel can tell (`ThreadSchedule`).
Where it does not, a thread slept only if the watchdog saw it asleep.

A thread that sleeps until another one lets go of a lock, or of the GIL, waits for a processor too if that one does: the
machine is the cause then, not the line that asked for the lock.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: share of a block that decides on its cause
_MOST: Final = 0.5
#: minimum CPU share of a collection that ran on the loop's thread, however busy the machine is
_OWN: Final = 0.2
#: seconds after which a thread that waits for the GIL wakes up
_GIL_TURN: Final = 0.005


class BlockedBy(StrEnum):
    """The label `cause` of `fastperf_event_loop_blocked_seconds`."""

    SYNC_IO = "sync_io"
    CPU = "cpu"
    GC = "gc"
    GIL_HELD = "gil_held"
    DESCHEDULED = "descheduled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured during a block, in seconds except for `turns` and what follows it.

    Attributes:
        cpu: CPU time of the loop's thread.
        others_cpu: CPU time of the other threads of the process.
        gc: Pauses of the garbage collector, in any thread.
        stopped: Time in which the watchdog should have run, did not run, and did not wait for the GIL.
        gil_wait: The watchdog's longest wait for the GIL.
        starved: Time in which the loop's thread was ready to run and had no processor; None if unknown.
        others_starved: The same for the thread of the process that starved most apart from it.
        turns: How often the loop's thread got a processor.
        asleep: Share of samples in which the GIL was free and the loop's thread slept; None without samples.
        locked: Share of samples in which the loop's thread waited for a lock, which may be the GIL.
        idle: True if no sample shows the loop's thread in a callback.
    """

    seconds: float
    cpu: float = 0.0
    others_cpu: float = 0.0
    gc: float = 0.0
    stopped: float = 0.0
    gil_wait: float = 0.0
    starved: float | None = None
    others_starved: float = 0.0
    turns: int = 0
    asleep: float | None = None
    locked: float = 0.0
    idle: bool = False


def blocked_by(measured: Measurement, threshold: float) -> BlockedBy:
    """The cause of a block. Code that computes for `threshold` seconds is the cause, even if it was slowed down."""
    most = _MOST * measured.seconds
    if measured.gc >= most and measured.cpu >= _OWN * measured.gc:
        return BlockedBy.GC
    if measured.cpu >= min(most, threshold):
        return BlockedBy.GIL_HELD if measured.gil_wait >= most else BlockedBy.CPU
    seen_asleep = measured.asleep is not None and measured.asleep >= _MOST and not measured.idle
    if measured.gc >= most and not seen_asleep:
        return BlockedBy.GC
    if measured.stopped >= most or (measured.starved is not None and measured.starved >= most):
        return BlockedBy.DESCHEDULED
    if _slept(measured, seen_asleep=seen_asleep):
        return BlockedBy.DESCHEDULED if _starved_for_a_lock(measured) >= most else BlockedBy.SYNC_IO
    return _kept_from_running(measured)


def _slept(measured: Measurement, *, seen_asleep: bool) -> bool:
    """Whether the loop's thread slept in a system call for most of the time, and not in order to get the GIL."""
    if measured.starved is None:
        return seen_asleep
    slept = measured.seconds - measured.cpu - measured.starved
    if measured.asleep is None or measured.idle or slept < _MOST * measured.seconds:
        return False
    return seen_asleep or (measured.gil_wait < _MOST * measured.seconds and not _asked_for_the_gil(measured))


def _starved_for_a_lock(measured: Measurement) -> float:
    """Seconds in which the thread that has the lock got no processor, if the loop's thread waited for a lock."""
    return measured.others_starved if measured.locked >= _MOST else 0.0


def _asked_for_the_gil(measured: Measurement) -> bool:
    """Whether the loop's thread woke up as often as one that waits for the GIL."""
    slept = measured.seconds - measured.cpu - (measured.starved or 0.0)
    return measured.turns * _GIL_TURN >= _MOST * slept


def _kept_from_running(measured: Measurement) -> BlockedBy:
    """The loop's thread did not run, and another thread may have had the GIL."""
    most = _MOST * measured.seconds
    if measured.others_cpu >= most:
        return BlockedBy.GIL_HELD
    if measured.gil_wait < most:
        return BlockedBy.DESCHEDULED
    # the thread that has the GIL does not compute: this one, in C code, or else one that gets no processor
    waited = measured.starved is not None and _asked_for_the_gil(measured)
    waited = waited or measured.others_starved >= most
    return BlockedBy.DESCHEDULED if waited or measured.idle else BlockedBy.GIL_HELD


def by_other_threads(measured: Measurement) -> bool:
    """True if other threads computed with the GIL and the loop's thread did not, so its code is not the cause."""
    most = _MOST * measured.seconds
    return measured.cpu < most <= measured.others_cpu


def lost(measured: Measurement, cause: BlockedBy) -> float:
    """Seconds not caused by the code: garbage was collected, or the thread had no processor."""
    if cause is not BlockedBy.CPU or measured.seconds <= 0:
        waited = _starved_for_a_lock(measured) if cause is BlockedBy.SYNC_IO else 0.0
        return measured.gc + max(measured.starved or 0.0, waited)
    # a collection waits for a processor as often as the code does, so it has no more than its share of the CPU time
    collecting = min(1.0, measured.gc / measured.seconds)
    return measured.seconds - measured.cpu * (1.0 - collecting)

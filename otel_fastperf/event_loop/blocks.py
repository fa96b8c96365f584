"""Evaluates what the watchdog sampled between two moments at which the event loop was free: what ran longest.

A long interval alone is not a block: twenty tasks that are ready at once may take 5 ms each. The loop was blocked if
consecutive samples show the same task or callback.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

from otel_fastperf.event_loop.cause import Measurement
from otel_fastperf.event_loop.stack_sampler import Sight
from otel_fastperf.internals.thread_schedule import ThreadSchedule
from otel_fastperf.requests.record import RequestRecord

#: seconds; a thread that wakes up at most this late is on time
_ON_TIME: Final = 0.02
#: how many of a request's latest marks and waits are searched
_MOST_MARKS: Final = 16


class Moment(NamedTuple):
    """Readings of the clocks, in seconds.

    Attributes:
        at: `time.perf_counter()`.
        cpu: CPU time of the loop's thread.
        process: CPU time of all threads of the process.
        schedule: How the loop's thread was scheduled; None if unknown.
    """

    at: float
    cpu: float
    process: float
    schedule: ThreadSchedule | None = None


class Sample(NamedTuple):
    """One look of the watchdog at the loop's thread.

    Attributes:
        since: Since when the loop has run its current iteration, by `time.perf_counter()`; minus infinity if unknown.
        asleep: True if the GIL was free and the loop's thread slept.
        locked: True if it waited for a lock, which may be the GIL; False also if the kernel does not tell.
    """

    moment: Moment
    sight: Sight
    since: float
    asleep: bool
    locked: bool = False


class LateWakeup(NamedTuple):
    """The watchdog woke up late, by `time.perf_counter()`; it spent `gil_wait` seconds of that waiting for the GIL."""

    due: float
    woke: float
    gil_wait: float


class BeatInterval:
    """What the watchdog notes between two heartbeats. Its thread writes; the loop's thread reads at the next beat.

    Attributes:
        free: When the loop was last seen free.
        first_look: When the watchdog takes its first sample.
        look_at: When it looks next.
        beat_asked: Whether it has asked the loop for a beat.
    """

    __slots__ = ("beat_asked", "first_look", "free", "late_wakeups", "look_at", "samples")

    def __init__(self, free: Moment, look_at: float) -> None:
        self.free: Moment = free
        self.first_look: float = look_at
        self.look_at: float = look_at
        self.beat_asked: bool = False
        self.samples: list[Sample] = []
        self.late_wakeups: list[LateWakeup] = []


@dataclass(frozen=True, slots=True)
class LoopRun:
    """The time in which the loop ran one task or callback, according to the samples.

    Attributes:
        start: By `time.perf_counter()`; half-way between two samples if it is not known exactly.
        end: By `time.perf_counter()`; half-way between two samples if it is not known exactly.
        before: The last moment before it at which all clocks are known.
        after: The first moment after it at which all clocks are known.
    """

    start: float
    end: float
    samples: tuple[Sample, ...]
    before: Moment
    after: Moment

    @property
    def seconds(self) -> float:
        """Its duration."""
        return self.end - self.start

    @property
    def record(self) -> RequestRecord | None:
        """The request that it served."""
        return next((sample.sight.record for sample in self.samples if sample.sight.record is not None), None)


def longest_run(
    interval: BeatInterval, now: Moment, since: float, late_wakeups: Iterable[LateWakeup] = ()
) -> LoopRun | None:
    """What the loop ran longest; None if the loop itself was stopped meanwhile. `since` is that of a `Sample`."""
    samples = tuple(interval.samples)
    if not all(sample.sight.running for sample in samples):
        return None
    if not samples:
        return _unseen_run(interval, now, since, late_wakeups)
    return max(_runs(samples, interval, now), key=lambda run: run.seconds)


def _unseen_run(interval: BeatInterval, now: Moment, since: float, late_wakeups: Iterable[LateWakeup]) -> LoopRun:
    """The longest time in which the loop can have run without a sample: an iteration, or what kept the watchdog too."""
    cpu = now.cpu - interval.free.cpu
    unseen = [(since, now.at), *((min(late.due, late.woke - cpu), late.woke) for late in late_wakeups)]
    start, end = max(((max(start, interval.free.at), end) for start, end in unseen), key=lambda run: run[1] - run[0])
    return LoopRun(start, end, (), interval.free, now)


def _runs(samples: tuple[Sample, ...], interval: BeatInterval, now: Moment) -> Iterable[LoopRun]:
    groups = [tuple(group) for _, group in groupby(samples, lambda sample: (sample.sight.idle, id(sample.sight.task)))]
    for number, group in enumerate(groups):
        before = groups[number - 1][-1].moment if number else interval.free
        last = number == len(groups) - 1
        after = now if last else groups[number + 1][0].moment
        start = (before.at + group[0].moment.at) / 2 if number else _began(group, interval)
        end = now.at if last else (group[-1].moment.at + after.at) / 2
        yield LoopRun(start, end, group, before, after)


def _began(group: tuple[Sample, ...], interval: BeatInterval) -> float:
    """Start of the first run: when the iteration began, or its request last noted something, before the first look."""
    first, record = group[0], next((each.sight.record for each in group if each.sight.record is not None), None)
    latest = min(interval.first_look + max(0.0, first.since - interval.free.at), first.moment.at)
    marks = [first.since]
    if record is not None:
        marks.append(record.started)
        marks += (at for at, _ in record.phases[-_MOST_MARKS:])
        marks += (end for _, end, _ in record.intervals[-_MOST_MARKS:])
    return max((at for at in marks if interval.free.at < at <= latest), default=interval.free.at)


def measured(
    run: LoopRun,
    late_wakeups: Iterable[LateWakeup],
    pauses: Sequence[tuple[float, float]],
    others_starved: float = 0.0,
) -> Measurement:
    """Input of `cause.blocked_by`. `pauses`: `(start, end)` of garbage collections by `time.perf_counter()`."""
    before, after = run.before, run.after
    cpu = after.cpu - before.cpu
    stopped = gil_wait = 0.0
    for late in late_wakeups:
        seconds = _overlap(late.due, late.woke, run)
        waited = min(late.gil_wait, seconds)
        gil_wait = max(gil_wait, waited)
        stopped += seconds - waited if seconds - waited >= _ON_TIME else 0.0
    then, now = before.schedule, after.schedule
    return Measurement(
        seconds=after.at - before.at,
        cpu=cpu,
        others_cpu=max(0.0, after.process - before.process - cpu),
        gc=sum(_overlap(start, end, run) for start, end in pauses),
        stopped=stopped,
        gil_wait=gil_wait,
        starved=None if then is None or now is None else now.starved - then.starved,
        turns=0 if then is None or now is None else now.turns - then.turns,
        asleep=sum(sample.asleep for sample in run.samples) / len(run.samples) if run.samples else None,
        locked=sum(sample.locked for sample in run.samples) / len(run.samples) if run.samples else 0.0,
        others_starved=others_starved,
        idle=all(sample.sight.idle for sample in run.samples),
    )


def _overlap(start: float, end: float, run: LoopRun) -> float:
    return max(0.0, min(end, run.after.at) - max(start, run.before.at))

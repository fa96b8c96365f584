"""From one moment at which the event loop was free to the next: what was seen in between, and who held it longest.

Not every long gap is a hold: twenty tasks that are ready at once may take 5 ms each. The loop was held when one task,
or one callback, is seen all the time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

from otel_fastperf.event_loop.cause import Measurement
from otel_fastperf.event_loop.stack_sampler import Sight
from otel_fastperf.requests.record import RequestRecord

#: a thread that wakes up less than this many seconds late is on time
_ON_TIME: Final = 0.02
#: of what a request has noted, the last so many marks and waits are looked through
_MOST_MARKS: Final = 16


class Moment(NamedTuple):
    """Clocks, all in seconds."""

    #: `time.perf_counter()`
    at: float
    #: CPU time of the loop's thread, and of all threads of the process
    cpu: float
    process: float


class Sample(NamedTuple):
    """What the watchdog saw."""

    moment: Moment
    sight: Sight
    #: the loop has run what it runs since then, or later, by `time.perf_counter()`
    woke: float
    #: the GIL was free, and the loop's thread slept
    asleep: bool


class Late(NamedTuple):
    """The watchdog woke up late, by `time.perf_counter()`."""

    due: float
    woke: float
    #: for so many seconds of it, it waited for the GIL
    gil_wait: float


class Gap:
    """What is noted since the loop was free. Written by the watchdog's thread, read by the loop's when it is over."""

    __slots__ = ("first_look", "free", "lates", "look_at", "samples")

    def __init__(self, free: Moment, look_at: float) -> None:
        self.free = free
        #: when the watchdog has its first look, and its next one
        self.first_look = self.look_at = look_at
        self.samples: list[Sample] = []
        self.lates: list[Late] = []


@dataclass(frozen=True, slots=True)
class Run:
    """The loop did one thing, as far as was seen."""

    #: by `time.perf_counter()`; when it is not known exactly, half-way between two samples
    start: float
    end: float
    samples: tuple[Sample, ...]
    #: the last moment before it and the first after it of which all clocks are known
    before: Moment
    after: Moment

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start

    @property
    def record(self) -> RequestRecord | None:
        """The request that it was for."""
        return next((sample.sight.record for sample in self.samples if sample.sight.record is not None), None)


def longest_run(gap: Gap, now: Moment) -> Run | None:
    """What the loop did longest; None when it did not run all the time.

    The run that comes first began when the loop last woke up, or when its request has noted something since.
    """
    samples = tuple(gap.samples)
    if not all(sample.sight.running for sample in samples):
        return None
    if not samples:
        return Run(gap.free.at, now.at, (), gap.free, now)
    return max(_runs(samples, gap, now), key=lambda run: run.seconds)


def _runs(samples: tuple[Sample, ...], gap: Gap, now: Moment) -> Iterable[Run]:
    groups = [tuple(group) for _, group in groupby(samples, lambda sample: (sample.sight.idle, id(sample.sight.task)))]
    for number, group in enumerate(groups):
        before = groups[number - 1][-1].moment if number else gap.free
        last = number == len(groups) - 1
        after = now if last else groups[number + 1][0].moment
        start = (before.at + group[0].moment.at) / 2 if number else _began(group, gap)
        end = now.at if last else (group[-1].moment.at + after.at) / 2
        yield Run(start, end, group, before, after)


def _began(group: tuple[Sample, ...], gap: Gap) -> float:
    """The first run began as late as is known for certain, and before the watchdog's first look."""
    first, record = group[0], next((each.sight.record for each in group if each.sight.record is not None), None)
    latest = min(gap.first_look, first.moment.at)
    marks = [first.woke]
    if record is not None:
        marks.append(record.started)
        marks += (at for at, _ in record.phases[-_MOST_MARKS:])
        marks += (end for _, end, _ in record.intervals[-_MOST_MARKS:])
    return max((at for at in marks if gap.free.at < at <= latest), default=gap.free.at)


def measured(run: Run, lates: Iterable[Late], pauses: Sequence[tuple[float, float]]) -> Measurement:
    """What decides on the cause. `pauses` are the garbage collector's, `(start, end)` by `time.perf_counter()`."""
    before, after = run.before, run.after
    cpu = after.cpu - before.cpu
    stopped = gil_wait = 0.0
    for late in lates:
        seconds = _overlap(late.due, late.woke, run)
        waited = min(late.gil_wait, seconds)
        gil_wait = max(gil_wait, waited)
        stopped += seconds - waited if seconds - waited >= _ON_TIME else 0.0
    return Measurement(
        seconds=after.at - before.at,
        cpu=cpu,
        others_cpu=max(0.0, after.process - before.process - cpu),
        gc=sum(_overlap(start, end, run) for start, end in pauses),
        stopped=stopped,
        gil_wait=gil_wait,
        asleep=sum(sample.asleep for sample in run.samples) / len(run.samples) if run.samples else None,
        idle=all(sample.sight.idle for sample in run.samples),
    )


def _overlap(start: float, end: float, run: Run) -> float:
    return max(0.0, min(end, run.after.at) - max(start, run.before.at))

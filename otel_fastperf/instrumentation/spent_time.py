"""Where the time of a request went, from what was noted on its record and from what delayed all requests."""

from collections.abc import Iterable, Iterator
from typing import Final

from otel_fastperf.event_loop.delayed_requests import blocks_that_delayed, own_blocks
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.time_budget import Budget, Cause, Interval, split, summed
from otel_fastperf.signals import Block, Signals

#: length of `RequestRecord.marks` from which they are summed up: 64 marks, 5 kB, more than most requests have
MOST_MARKS: Final = 2 * 64
#: those that stay: what was waited for at their time may become known only now
_KEPT: Final = 2 * 12


def budget_of(record: RequestRecord, signals: Signals) -> Budget:
    """The time budget of a request that has ended."""
    since, until = record.counted_until, record.ended
    return split(since, until, record.phases, _intervals(record, signals, since, until), record.counted)


def count_up(record: RequestRecord, signals: Signals) -> None:
    """Sum up the time so far, so that a request that runs for hours keeps no more than a short one. Never raises."""
    number = len(record.marks) - _KEPT
    try:
        signals.delays.catch_up()
        since, until = record.counted_until, record.marks[number]
        sums = summed(since, until, record.phases[: number // 2], _intervals(record, signals, since, until))
        record.count(sums, until, number)
    except Exception as error:  # noqa: BLE001 - the request goes on
        signals.guard.failed("requests", error)
        del record.marks[:number]


def _intervals(record: RequestRecord, signals: Signals, since: float, until: float) -> list[Interval]:
    """What it waited for, and what stood in its way."""
    delays = signals.delays
    intervals = list(record.intervals)
    pauses = delays.pauses
    # by number: a collection that begins here appends to it, which ends an iteration with an error
    for back in range(1, len(pauses) + 1):
        start, end = pauses[-back]
        if end <= since:
            break
        if start < until:
            intervals.append((start, end, Cause.GC))
    # a copy: the loop's thread appends while this may run on the backlog's
    blocks = list(delays.blocks)
    if blocks and blocks[-1].end > since:
        intervals += _loop_waits(record, blocks_that_delayed(record, blocks, since, until))
        # a task that it started held the loop, while its own coroutine was suspended
        intervals += [(block.start, block.end, Cause.IN_THREAD) for block in own_blocks(record, blocks, since)]
    return intervals


def _loop_waits(record: RequestRecord, blocks: Iterable[Block]) -> Iterator[Interval]:
    """Time in which others blocked the event loop. Adds a link to each span that reports a block."""
    span = record.span
    for block in blocks:
        if block.span is not None and span.is_recording():
            span.add_link(block.span, {"fastperf.link": "event loop blocked"})
        yield block.start, block.end, Cause.LOOP_WAIT

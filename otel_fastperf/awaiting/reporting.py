"""Where the samples of a request go when it has ended: events on its span, a metric, and the sums of its route."""

from typing import Final

from otel_fastperf.internals.spans import code_attributes
from otel_fastperf.requests.awaits import Awaited, Awaits
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.signals import Signals

#: events on one span
_MOST_EVENTS: Final = 5
#: share of the request's time
_LEAST: Final = 0.02

_EVENT: Final = "fastperf.await"


def end_awaits(record: RequestRecord, awaits: Awaits, signals: Signals) -> None:
    """Count the time since the last sample for what was seen then, except for that in which the loop was blocked.

    A request that was slow enough to be sampled is also judged without the time in which the machine did not run it.
    """
    since, ended = awaits.sampled, record.ended
    awaits.end(ended - since - signals.delays.blocked_seconds(since, ended))
    record.starved = signals.delays.starvation.seconds(record.started, ended)


def show_awaits(record: RequestRecord, at: int) -> None:
    """Put what took most of the request's time on its span: an event for each, at the time `at` in nanoseconds."""
    for awaited, seconds in sorted(record.awaited.items(), key=lambda pair: -pair[1])[:_MOST_EVENTS]:
        if seconds >= _LEAST * record.seconds:
            record.span.add_event(
                _EVENT,
                {
                    "fastperf.await.activity": activity(awaited),
                    "fastperf.await.library": awaited.library,
                    "fastperf.await.function": awaited.function,
                    "fastperf.await.seconds": seconds,
                    **code_attributes(awaited.call_site),
                },
                at,
            )


def count_awaits(record: RequestRecord, method: str, route: str, signals: Signals) -> None:
    """Add it to the metric, which has no lines, and to the sums of the route, which have."""
    for awaited, seconds in record.awaited.items():
        function = awaited.function
        if not function and not awaited.library and awaited.call_site is not None:
            function = awaited.call_site.function
        signals.metrics.request_await.child(method, route, activity(awaited), awaited.library, function).inc(seconds)
    signals.awaits.add(method, route, record.awaited)


def activity(awaited: Awaited) -> str:
    """The label `activity`."""
    return "computing" if awaited.computing else "awaiting"

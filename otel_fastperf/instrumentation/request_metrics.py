"""The metrics of requests: rate, errors, duration, sizes and where the time went.

The label values of a route hardly vary, so what they lead to is looked up once for each combination, not per request.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from otel_fastperf.internals.spans import Exemplars
from otel_fastperf.metrics import Metrics, adder
from otel_fastperf.requests.recent import RecentRequests, Segments
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.route import Route
from otel_fastperf.requests.time_budget import Segment

#: method, route, status, error.type and scheme, and the values of the labels that the application has added
Labels = tuple[str, ...]


class RequestMetrics:
    """Measures requests that have ended. Called on the event loop's thread or the backlog's."""

    def __init__(self, metrics: Metrics, recent: RecentRequests, *, exemplars: bool, first_byte: bool = False) -> None:
        """`recent` keeps the budgets of each route's last requests. `exemplars`: durations refer to spans.

        `first_byte`: measure the time to the first byte.
        """
        self._metrics = metrics
        self._recent = recent
        self._exemplars = exemplars
        self._first_byte = first_byte
        self._series: dict[Labels, _RouteSeries] = {}

    def measure(self, record: RequestRecord, labels: Labels, received: int, sent: int, first_byte: float) -> None:
        """Count a request. `received` and `sent` are the bytes of the bodies; `first_byte` is 0 if none was sent."""
        series = self._series.get(labels)
        if series is None:
            series = self._look_up(labels)
        seconds = record.ended - record.started
        series.duration.observe(seconds, series.exemplars.of(record.span, seconds, record.ended))
        series.received.observe(received)
        series.sent.observe(sent)
        series.statements.observe(record.db_statements)
        if series.first_byte is not None and first_byte:
            series.first_byte.observe(first_byte)
        if record.budget is None:
            return
        series.recent.append(record.budget.segments)
        for segment, spent in record.budget.segments.items():
            series.adder(segment)(spent)
        for middleware, spent in record.self_times():
            self._metrics.middleware_self_time.child(middleware.name).observe(spent)

    def _look_up(self, labels: Labels) -> "_RouteSeries":
        series = _RouteSeries(
            self._metrics, labels, Exemplars(on=self._exemplars), self._recent.of(Route(labels[0], labels[1]))
        )
        if self._first_byte:
            series.first_byte = self._metrics.time_to_first_byte.child(*labels[:2])
        # an overflow series is looked up each time, which counts what it takes
        if self._metrics.request_duration.has(*labels):
            self._series[labels] = series
        return series


class _RouteSeries:
    """The series of one combination of labels."""

    __slots__ = (
        "_metrics",
        "_route",
        "_time",
        "duration",
        "exemplars",
        "first_byte",
        "received",
        "recent",
        "sent",
        "statements",
    )

    def __init__(self, metrics: Metrics, labels: Labels, exemplars: Exemplars, recent: deque[Segments]) -> None:
        route = labels[:2]
        self._metrics = metrics
        self._route = route
        self.exemplars: Final = exemplars
        self.recent: Final = recent
        self.duration: Any = metrics.request_duration.child(*labels)
        self.received: Any = metrics.request_body_size.child(*route)
        self.sent: Any = metrics.response_body_size.child(*route)
        self.statements: Any = metrics.request_db_statements.child(*route)
        #: None unless it is measured
        self.first_byte: Any = None
        self._time: dict[Segment, Callable[[float], None]] = {}

    def adder(self, segment: Segment) -> Callable[[float], None]:
        """What adds to the seconds of a segment."""
        add = self._time.get(segment)
        if add is None:
            add = adder(self._metrics.request_time.child(*self._route, segment))
            if self._metrics.request_time.has(*self._route, segment):
                self._time[segment] = add
        return add

"""Findings as events, log records with a name: https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-eventname."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context

from otel_fastperf.findings import Finding, Severity
from otel_fastperf.findings_outlet import event_attributes

if TYPE_CHECKING:
    from otel_fastperf.requests.record import RequestRecord

#: seconds between two events of one finding, which may repeat with every request
_PAUSE: Final = 60.0
_MOST: Final = 1024
_SEVERITIES: Final = {
    Severity.INFO: (SeverityNumber.INFO, "INFO"),
    Severity.WARNING: (SeverityNumber.WARN, "WARN"),
    Severity.CRITICAL: (SeverityNumber.ERROR, "ERROR"),
}


class FindingEvents:
    """A finding listener that emits an event, `fastperf.<kind>`, at most once a minute for each finding of a place."""

    def __init__(self, emit: Callable[..., None]) -> None:
        self._emit = emit
        self._last: OrderedDict[tuple[object, ...], float] = OrderedDict()

    def __call__(self, finding: Finding, record: "RequestRecord | None") -> None:
        """Emit the event in the trace of its request."""
        place = (finding.kind, finding.where, finding.subject, finding.call_site)
        now = time.monotonic()
        if now - self._last.get(place, -_PAUSE) < _PAUSE:
            return
        self._last[place] = now
        self._last.move_to_end(place)
        if len(self._last) > _MOST:
            self._last.popitem(last=False)
        number, text = _SEVERITIES[finding.severity]
        attributes: dict[str, Any] = event_attributes(finding)
        if finding.route:
            attributes |= {"http.route": finding.route}
        if finding.method:
            attributes |= {"http.request.method": finding.method}
        context = Context() if record is None else trace.set_span_in_context(record.span, Context())
        self._emit(
            "otel_fastperf",
            timestamp=time.time_ns(),
            context=context,
            severity_number=number,
            severity_text=text,
            body=finding.message,
            attributes=attributes,
            event_name=f"fastperf.{str.__str__(finding.kind)}",
        )

"""The outlet for findings: the log, `fastperf_findings_total`, an event on the span, and one warning each.

Built-in and custom detectors run here, so both are treated alike.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Generic, TypeAlias, TypeVar

from opentelemetry.util.types import AttributeValue

from otel_fastperf.findings import Finding, FindingLog
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.spans import exemplar_of
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.view import RequestView
from otel_fastperf.settings import FindingsSettings

#: Looks at a finished request and yields the bottlenecks that it sees.
Detector: TypeAlias = Callable[[RequestView], Iterable[Finding]]
#: The built-in ones read all that is recorded.
BuiltInDetector: TypeAlias = Callable[[RequestRecord], Iterable[Finding]]

#: Is told of each finding as it is reported, with its request, if it has one. On the thread that reports.
FindingListener: TypeAlias = Callable[[Finding, RequestRecord | None], object]
#: Is told of each request when it has ended and its detectors have run. On the event loop's thread.
RequestListener: TypeAlias = Callable[[RequestRecord], object]

_T = TypeVar("_T")

_logger: Final = logging.getLogger("otel_fastperf.findings")

_MINUTE: Final = 60.0


class Findings:
    """The outlet for findings of one `Telemetry`. Safe to call from any thread; never raises."""

    def __init__(self, settings: FindingsSettings, metrics: Metrics, guard: Guard) -> None:
        self.log = FindingLog(settings.most, lambda finding: metrics.findings_dropped.child(finding.kind).inc())
        self._disabled = frozenset(settings.disabled)
        self._enabled = settings.enabled
        self._metrics = metrics
        self._guard = guard
        self._detectors: _Registry[BuiltInDetector] = _Registry()
        self._finding_listeners: _Registry[FindingListener] = _Registry()
        self._request_listeners: _Registry[RequestListener] = _Registry()
        self._warnings = _Warnings(settings.warnings_per_minute, metrics)

    def add_detector(self, detector: BuiltInDetector) -> Callable[[], None]:
        """Run `detector` on every finished request; returns the function that removes it."""
        return self._detectors.add(detector)

    def add_finding_listener(self, listener: FindingListener) -> Callable[[], None]:
        """Tell `listener` of each single finding, before it is merged; returns the function that removes it."""
        return self._finding_listeners.add(listener)

    def add_request_listener(self, listener: RequestListener) -> Callable[[], None]:
        """Tell `listener` of each request that has ended; returns the function that removes it."""
        return self._request_listeners.add(listener)

    def request_ended(self, record: RequestRecord) -> None:
        """Run the detectors on a request that has ended, report what they find on its span, then tell the listeners."""
        if self._enabled:
            for detector in self._detectors.registered:
                self._detect(detector, record)
        for listener in self._request_listeners.registered:
            try:
                listener(record)
            except Exception as error:  # noqa: BLE001 - a listener that fails misses one request
                self._guard.failed("request_listener", error)

    def _detect(self, detector: BuiltInDetector, record: RequestRecord) -> None:
        try:
            for finding in detector(record):
                self.report(finding, record)
        except Exception as error:  # noqa: BLE001 - a detector that fails loses its own findings only
            self._guard.failed("detector", error)

    def report(self, finding: Finding, record: RequestRecord | None = None) -> None:
        """Take a finding. With a request, its span gets an event, and the finding gets its trace id."""
        if not self._enabled or finding.kind in self._disabled:
            return
        try:
            self._report(finding, record)
        except Exception as error:  # noqa: BLE001 - a logging handler or a span processor of the app's
            self._guard.failed("findings", error)

    def _report(self, finding: Finding, record: RequestRecord | None) -> None:
        exemplar = None if record is None else exemplar_of(record.span)
        now = time.time()
        finding = replace(
            finding,
            route=finding.route or (record is not None and record.route) or "",
            first_seen=finding.first_seen or now,
            last_seen=finding.last_seen or now,
            trace_ids=finding.trace_ids or (() if exemplar is None else (exemplar["trace_id"],)),
        )
        is_new = self.log.add(finding)
        self._metrics.findings.child(finding.kind, finding.route).inc(finding.count, exemplar)
        if record is not None:
            record.findings.append(finding.kind)
            if record.span.is_recording():
                record.span.add_event(f"fastperf.{finding.kind}", event_attributes(finding))
        if is_new:
            self._warnings.warn(finding)
        for listener in self._finding_listeners.registered:
            try:
                listener(finding, record)
            except Exception as error:  # noqa: BLE001 - a listener that fails misses one finding
                self._guard.failed("finding_listener", error)


class _Registry(Generic[_T]):
    """Callables in the order in which they were added.

    Attributes:
        registered: Replaced, never changed, so that a callable may remove itself while it is called.
    """

    __slots__ = ("_entries", "registered")

    def __init__(self) -> None:
        self._entries: tuple[list[_T], ...] = ()
        self.registered: tuple[_T, ...] = ()

    def add(self, item: _T) -> Callable[[], None]:
        """Register `item`; returns the function that removes this registration. A second call of it does nothing."""
        # a registration is known by its own object, since an item may be registered twice
        entry = [item]
        self._entries = (*self._entries, entry)
        self.registered = tuple(each for (each,) in self._entries)

        def remove() -> None:
            self._entries = tuple(each for each in self._entries if each is not entry)
            self.registered = tuple(each for (each,) in self._entries)

        return remove


class _Warnings:
    """One structured warning for each new finding, up to a limit per minute; suppressed ones are counted."""

    def __init__(self, per_minute: int, metrics: Metrics) -> None:
        self._per_minute = per_minute
        self._metrics = metrics
        self._said: deque[float] = deque(maxlen=max(1, per_minute))

    def warn(self, finding: Finding) -> None:
        now = time.monotonic()
        full = len(self._said) == self._said.maxlen and now - self._said[0] < _MINUTE
        if not self._per_minute or full:
            self._metrics.findings_suppressed.child(finding.kind).inc()
            return
        self._said.append(now)
        _logger.warning(
            "%s%s: %s%s Remedy: %s",
            finding.kind,
            f" in {finding.route}" if finding.route else "",
            finding.message,
            f" At {finding.call_site}." if finding.call_site is not None else "",
            finding.remedy,
            extra={"fastperf_finding": event_attributes(finding)},
        )


def event_attributes(finding: Finding) -> dict[str, AttributeValue]:
    """A finding as span event attributes. `code.*`: https://opentelemetry.io/docs/specs/semconv/code/."""
    attributes: dict[str, AttributeValue] = {
        "fastperf.finding.kind": finding.kind,
        "fastperf.finding.severity": finding.severity.value,
        "fastperf.finding.subject": finding.subject,
        "fastperf.finding.message": finding.message,
        "fastperf.finding.remedy": finding.remedy,
    }
    site = finding.call_site
    if site is not None:
        attributes |= {
            "code.file.path": site.file,
            "code.line.number": site.line,
            "code.function.name": site.function,
        }
    attributes |= {f"fastperf.evidence.{name}": value for name, value in finding.evidence.items()}
    return attributes

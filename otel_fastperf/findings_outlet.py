"""The outlet for findings: the log, `fastperf_findings_total`, an event on the request's span, and a warning.

Built-in and custom detectors both run here, so they are treated alike.
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
from otel_fastperf.internals.spans import code_attributes, exemplar_of, keep_for
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import RequestRecord, route_of
from otel_fastperf.requests.view import RequestView
from otel_fastperf.settings import FindingsSettings

#: Examines a finished request and yields its bottlenecks.
Detector: TypeAlias = Callable[[RequestView], Iterable[Finding]]
#: Built-in detectors read the whole record.
BuiltInDetector: TypeAlias = Callable[[RequestRecord], Iterable[Finding]]

#: Called with each reported finding and its request, if it has one, on the thread that reports it.
FindingListener: TypeAlias = Callable[[Finding, RequestRecord | None], object]
#: Called with each request that has ended, after its detectors have run: on the event loop's thread or the backlog's.
RequestListener: TypeAlias = Callable[[RequestRecord], object]

_T = TypeVar("_T")

_logger: Final = logging.getLogger("otel_fastperf.findings")

_MINUTE: Final = 60.0


class Findings:
    """The outlet for findings of one `Telemetry`. Safe to call from any thread; never raises."""

    def __init__(self, settings: FindingsSettings, metrics: Metrics, guard: Guard) -> None:
        self.log: FindingLog = FindingLog(
            settings.most, lambda finding: metrics.findings_dropped.child(finding.kind).inc()
        )
        self._disabled = frozenset(settings.disabled)
        self._enabled = settings.enabled
        self._metrics = metrics
        self._guard = guard
        self._detectors: _Registry[BuiltInDetector] = _Registry()
        self._statement_detectors: _Registry[BuiltInDetector] = _Registry()
        self._finding_listeners: _Registry[FindingListener] = _Registry()
        self._request_listeners: _Registry[RequestListener] = _Registry()
        self._warnings = _Warnings(settings.warnings_per_minute, metrics)

    def add_detector(self, detector: BuiltInDetector, *, guest: bool = False) -> Callable[[], None]:
        """Run `detector` on every finished request; returns the function that removes it."""
        return self._detectors.add(detector, guest=guest)

    def add_statement_detector(self, detector: BuiltInDetector) -> Callable[[], None]:
        """Run `detector` on finished requests that ran statements; returns the function that removes it."""
        return self._statement_detectors.add(detector, guest=False)

    def add_finding_listener(self, listener: FindingListener, *, guest: bool = False) -> Callable[[], None]:
        """Call `listener` with each single finding, unmerged; returns the function that removes it."""
        return self._finding_listeners.add(listener, guest=guest)

    def add_request_listener(self, listener: RequestListener, *, guest: bool = False) -> Callable[[], None]:
        """Call `listener` with each request that has ended; returns the function that removes it."""
        return self._request_listeners.add(listener, guest=guest)

    @property
    def has_guests(self) -> bool:
        """Whether the application has a detector or listener of its own: then requests are examined when they end."""
        return bool(self._detectors.guests or self._finding_listeners.guests or self._request_listeners.guests)

    def request_ended(self, record: RequestRecord) -> None:
        """Run the detectors on a request that has ended, report their findings, then call the listeners."""
        if self._enabled:
            # first those that tell why a statement was slow, since others leave out what is explained
            if record.statements:
                self._detect(self._statement_detectors.registered, record)
            self._detect(self._detectors.registered, record)
        for listener in self._request_listeners.registered:
            try:
                listener(record)
            except Exception as error:  # noqa: BLE001 - a listener that fails misses one request
                self._guard.failed("request_listener", error)

    def _detect(self, detectors: Iterable[BuiltInDetector], record: RequestRecord) -> None:
        for detector in detectors:
            try:
                for finding in detector(record):
                    self.report(finding, record)
            except Exception as error:  # noqa: BLE001 - a detector that fails loses its own findings only
                self._guard.failed("detector", error)

    def report(self, finding: Finding, record: RequestRecord | None = None) -> None:
        """Report a finding. If a request is given, its span gets an event, and the finding gets its trace id."""
        if not self._enabled or finding.kind in self._disabled:
            return
        try:
            self._report(finding, record)
        except Exception as error:  # noqa: BLE001 - the app's logging handlers and span processors may raise
            self._guard.failed("findings", error)

    def _report(self, finding: Finding, record: RequestRecord | None) -> None:
        if record is not None:
            keep_for("finding", record.span)
        exemplar = None if record is None else exemplar_of(record.span)
        now = time.time()
        method, route = route_of(record)
        finding = replace(
            finding,
            method=finding.method or (method if finding.route in {"", route} else ""),
            route=finding.route or route,
            first_seen=finding.first_seen or now,
            last_seen=finding.last_seen or now,
            trace_ids=finding.trace_ids or (() if exemplar is None else (exemplar["trace_id"],)),
        )
        is_new = self.log.add(finding)
        self._metrics.findings.child(finding.kind, finding.method, finding.route).inc(finding.count, exemplar)
        if record is not None:
            kind = _text(finding.kind)
            record.findings.append(kind)
            if record.span.is_recording():
                record.span.add_event(f"fastperf.{kind}", event_attributes(finding))
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
        registered: Replaced as a whole, never changed, so that a callable may remove itself while it is called.
        guests: How many of them are the application's.
    """

    __slots__ = ("_entries", "guests", "registered")

    def __init__(self) -> None:
        self._entries: tuple[tuple[list[_T], bool], ...] = ()
        self.registered: tuple[_T, ...] = ()
        self.guests: int = 0

    def add(self, item: _T, *, guest: bool) -> Callable[[], None]:
        """Register `item`; returns the function that removes this registration. Calling that again does nothing."""
        # identifies the registration, since an item may be registered twice
        box = [item]
        self._replace((*self._entries, (box, guest)))
        return lambda: self._replace(tuple(entry for entry in self._entries if entry[0] is not box))

    def _replace(self, entries: tuple[tuple[list[_T], bool], ...]) -> None:
        self._entries = entries
        self.registered = tuple(item for (item,), _ in entries)
        self.guests = sum(guest for _, guest in entries)


class _Warnings:
    """Logs one structured warning for each new finding, up to a limit per minute; suppressed ones are counted."""

    def __init__(self, per_minute: int, metrics: Metrics) -> None:
        self._per_minute = per_minute
        self._metrics = metrics
        self._logged: deque[float] = deque(maxlen=max(1, per_minute))

    def warn(self, finding: Finding) -> None:
        now = time.monotonic()
        full = len(self._logged) == self._logged.maxlen and now - self._logged[0] < _MINUTE
        if not self._per_minute or full:
            self._metrics.findings_suppressed.child(finding.kind).inc()
            return
        self._logged.append(now)
        _logger.warning(
            "%s%s: %s%s Remedy: %s",
            finding.kind,
            f" in {finding.where}" if finding.route else "",
            finding.message,
            f" At {finding.call_site}." if finding.call_site is not None else "",
            finding.remedy,
            extra={"fastperf_finding": event_attributes(finding)},
        )


def event_attributes(finding: Finding) -> dict[str, AttributeValue]:
    """A finding as span event attributes."""
    attributes: dict[str, AttributeValue] = {
        # plain strings: OpenTelemetry < 1.45 drops members of enumerations
        "fastperf.finding.kind": _text(finding.kind),
        "fastperf.finding.severity": _text(finding.severity),
        "fastperf.finding.subject": finding.subject,
        "fastperf.finding.message": finding.message,
        "fastperf.finding.remedy": finding.remedy,
    }
    attributes |= code_attributes(finding.call_site)
    attributes |= {f"fastperf.evidence.{name}": _plain(value) for name, value in finding.evidence.items()}
    return attributes


def _plain(value: AttributeValue) -> AttributeValue:
    """A value of evidence without members of enumerations."""
    if isinstance(value, tuple):
        return tuple(_text(each) if isinstance(each, str) else str(each) for each in value)
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    """A plain string; `str()` of a member of an enumeration may be its name."""
    return str.__str__(value)

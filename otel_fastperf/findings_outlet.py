"""Where findings go: the log, `fastperf_findings_total`, an event on the span that suffered, one warning each.

Detectors of requests are run from here too, so that the built-in ones and the users' own are treated alike.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, TypeAlias

from opentelemetry.util.types import AttributeValue

from otel_fastperf.findings import Finding, FindingLog
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.spans import exemplar_of
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.settings import FindingsSettings

#: A detector of your own: looks at a request that has ended, and must neither keep nor change it.
Detector: TypeAlias = Callable[[RequestRecord], Iterable[Finding]]

#: Told of every finding as it is reported, with the request it is about, if there is one. On whichever thread that is.
Listener: TypeAlias = Callable[[Finding, RequestRecord | None], object]

_logger: Final = logging.getLogger("otel_fastperf.findings")

_MINUTE: Final = 60.0


class Findings:
    """The outlet for findings of one `Telemetry`. Safe to call from any thread; never raises."""

    def __init__(self, settings: FindingsSettings, metrics: Metrics, guard: Guard) -> None:
        self.log = FindingLog(settings.most)
        self._disabled = frozenset(settings.disabled)
        self._enabled = settings.enabled
        self._metrics = metrics
        self._guard = guard
        self._detectors: list[Detector] = []
        self._listeners: tuple[Listener, ...] = ()
        self._warnings = _Warnings(settings.warnings_per_minute, metrics)

    def add_detector(self, detector: Detector) -> Callable[[], None]:
        """Have `detector` look at every request that has ended; returns the call that undoes this."""
        self._detectors.append(detector)
        return lambda: self._detectors.remove(detector)

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of each single finding, before it is merged; returns the call that undoes this."""
        self._listeners = (*self._listeners, listener)

        def remove() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)

        return remove

    def examine(self, record: RequestRecord) -> None:
        """Run the detectors over a request that has ended, and report what they find, on its span."""
        if not self._enabled:
            return
        for detector in self._detectors:
            try:
                for finding in detector(record):
                    self.report(finding, record)
            except Exception as error:  # noqa: BLE001 - one detector that fails is one finding less
                self._guard.failed("detector", error)

    def report(self, finding: Finding, record: RequestRecord | None = None) -> None:
        """Take a finding in. With the request that suffered, its span gets an event and the finding its trace id."""
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
        for listener in self._listeners:
            listener(finding, record)


class _Warnings:
    """One structured warning for each new finding, so many a minute at most; those that are held back are counted."""

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
    """A finding as attributes of a span's event; https://opentelemetry.io/docs/specs/semconv/code/ for the line."""
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

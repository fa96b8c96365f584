"""A finding goes to the log, a counter with exemplar, an event on the request's span and one warning."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.exposition import generate_latest

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.findings_outlet import Findings
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.settings import FindingsSettings
from tests.conftest import Probe

FOUND = Finding(
    kind=Kind.SLOW_QUERY,
    severity=Severity.WARNING,
    subject="SELECT items",
    message="it took 1 s.",
    remedy="add an index",
    evidence={"seconds": 1.0},
    call_site=CallSite("/srv/shop/orders.py", 41, "list_orders"),
    seconds=1.0,
)


@pytest.fixture
def record(probe: Probe) -> RequestRecord:
    """A request that has just ended, except for its span."""
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    return RequestRecord(probe.signals, scope, probe.signals.tracer.start_span("GET"), 0.0)


def outlet(probe: Probe, **settings: Any) -> Findings:
    return Findings(FindingsSettings(**settings), probe.signals.metrics, probe.signals.guard)


def counted(probe: Probe, kind: str = Kind.SLOW_QUERY, route: str = "") -> float:
    return probe.value("fastperf_findings_total", kind=kind, http_request_method="", http_route=route) or 0.0


def test_a_finding_is_logged_counted_and_added_to_the_span(probe: Probe, record: RequestRecord) -> None:
    probe.signals.findings.report(FOUND, record)
    record.span.end()
    (finding,) = probe.findings()
    assert finding.trace_ids == (format(record.span.get_span_context().trace_id, "032x"),)
    assert finding.first_seen == finding.last_seen > 1e9
    assert counted(probe) == 1
    (event,) = probe.spans()[0].events
    assert event.name == "fastperf.slow_query"
    assert event.attributes is not None
    assert event.attributes["fastperf.finding.remedy"] == "add an index"
    assert event.attributes["fastperf.evidence.seconds"] == 1.0
    assert event.attributes["code.file.path"] == "/srv/shop/orders.py"
    assert event.attributes["code.line.number"] == 41
    assert record.findings == ["slow_query"]


def test_the_counter_has_an_exemplar(probe: Probe, record: RequestRecord) -> None:
    probe.signals.findings.report(FOUND, record)
    page = generate_latest(probe.signals.metrics.registry).decode()  # type: ignore[no-untyped-call]
    line = next(line for line in page.splitlines() if line.startswith("fastperf_findings_total{"))
    assert f'trace_id="{format(record.span.get_span_context().trace_id, "032x")}"' in line


def test_only_a_new_finding_is_logged_as_a_warning_with_its_fields(
    probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        probe.signals.findings.report(FOUND)
    (line,) = caplog.records
    assert (line.name, line.levelno) == ("otel_fastperf.findings", logging.WARNING)
    assert line.getMessage() == ("slow_query: it took 1 s. At shop/orders.py:41 in list_orders. Remedy: add an index")
    assert line.fastperf_finding["fastperf.finding.subject"] == "SELECT items"  # type: ignore[attr-defined]
    assert counted(probe) == 3


def test_warnings_are_limited_per_minute_and_suppressed_ones_counted(
    probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    findings = outlet(probe, warnings_per_minute=2)
    for number in range(5):
        findings.report(Finding(**{**_fields(FOUND), "subject": str(number)}))
    assert len(caplog.records) == 2
    assert probe.value("fastperf_findings_suppressed_total", kind="slow_query") == 3
    assert len(findings.log.findings()) == 5


def _fields(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in Finding.__dataclass_fields__}


def test_a_disabled_kind_is_not_reported(probe: Probe, record: RequestRecord) -> None:
    findings = outlet(probe, disabled="slow_query")
    findings.report(FOUND, record)
    assert (findings.log.findings(), counted(probe), record.findings) == ((), 0, [])


def test_all_findings_can_be_disabled(probe: Probe, record: RequestRecord) -> None:
    findings = outlet(probe, enabled=False)
    findings.add_detector(lambda _record: [FOUND])
    findings.request_ended(record)
    findings.report(FOUND)
    assert findings.log.findings() == ()


def test_a_custom_detector_sees_each_request_until_it_is_removed(probe: Probe, record: RequestRecord) -> None:
    seen: list[RequestRecord] = []

    def own(ended: RequestRecord) -> Iterator[Finding]:
        seen.append(ended)
        yield Finding(kind="too_late", severity=Severity.INFO, subject="me", message="m.", remedy="r")

    remove = probe.signals.findings.add_detector(own)
    probe.signals.findings.request_ended(record)
    remove()
    probe.signals.findings.request_ended(record)
    assert seen == [record]
    assert [finding.kind for finding in probe.findings()] == ["too_late"]


def test_a_detector_that_removes_itself_does_not_affect_the_others(probe: Probe, record: RequestRecord) -> None:
    findings = probe.signals.findings

    def once(_ended: RequestRecord) -> Iterator[Finding]:
        remove()
        yield from ()

    remove = findings.add_detector(once)
    findings.add_detector(lambda _record: [FOUND])
    findings.request_ended(record)
    assert [finding.kind for finding in probe.findings()] == ["slow_query"]


def test_a_request_listener_is_called_after_the_detectors(probe: Probe, record: RequestRecord) -> None:
    findings = probe.signals.findings
    told: list[list[str]] = []
    remove = findings.add_request_listener(lambda ended: told.append(list(ended.findings)))
    findings.add_detector(lambda _record: [FOUND])
    findings.request_ended(record)
    remove()
    findings.request_ended(record)
    assert told == [["slow_query"]]


def test_request_listeners_are_called_with_findings_disabled(probe: Probe, record: RequestRecord) -> None:
    findings = outlet(probe, enabled=False)
    told: list[RequestRecord] = []
    findings.add_request_listener(told.append)
    findings.request_ended(record)
    assert told == [record]


def test_a_failing_request_listener_is_counted_and_the_others_are_called(probe: Probe, record: RequestRecord) -> None:
    told: list[RequestRecord] = []

    def broken(_ended: RequestRecord) -> None:
        raise ZeroDivisionError

    probe.signals.findings.add_request_listener(broken)
    probe.signals.findings.add_request_listener(told.append)
    probe.signals.findings.request_ended(record)
    assert (probe.failures, told) == (["request_listener"], [record])


def test_removing_a_detector_twice_removes_only_one_of_two_registrations(probe: Probe, record: RequestRecord) -> None:
    findings = probe.signals.findings

    def detector(_ended: RequestRecord) -> list[Finding]:
        return [FOUND]

    remove = findings.add_detector(detector)
    findings.add_detector(detector)
    remove()
    remove()
    findings.request_ended(record)
    assert [finding.count for finding in probe.findings()] == [1]


def test_a_failing_finding_listener_is_counted_and_the_others_are_called(probe: Probe) -> None:
    told: list[Finding] = []

    def broken(_finding: Finding, _record: RequestRecord | None) -> None:
        raise ZeroDivisionError

    probe.signals.findings.add_finding_listener(broken)
    probe.signals.findings.add_finding_listener(lambda finding, _record: told.append(finding))
    probe.signals.findings.report(FOUND)
    assert (probe.failures, [finding.kind for finding in told]) == (["finding_listener"], ["slow_query"])


def test_a_finding_dropped_from_a_full_log_is_counted(probe: Probe) -> None:
    findings = outlet(probe, most=1)
    findings.report(FOUND)
    findings.report(replace(FOUND, subject="another"))
    assert probe.value("fastperf_findings_dropped_total", kind="slow_query") == 1


def test_a_failing_detector_is_counted_and_the_others_run(probe: Probe, record: RequestRecord) -> None:
    def broken(_record: RequestRecord) -> Iterator[Finding]:
        raise ZeroDivisionError

    probe.signals.findings.add_detector(broken)
    probe.signals.findings.add_detector(lambda _record: [FOUND])
    probe.signals.findings.request_ended(record)
    assert probe.failures == ["detector"]
    assert [finding.kind for finding in probe.findings()] == ["slow_query"]


def test_a_failing_outlet_raises_nothing() -> None:
    class NoMetrics(Metrics):
        def declared(self, name: str) -> Any:
            raise ZeroDivisionError

    failures: list[str] = []
    Findings(FindingsSettings(), NoMetrics(), Guard(failures.append)).report(FOUND)
    assert failures == ["findings"]

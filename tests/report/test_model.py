"""A report as values and as JSON: reading returns what was written, and anything else is refused with a reason."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_fastperf import CallSite, FastPerfError, Finding, Report, ReportError, RouteVerdict, Severity, WorkerVerdict
from tests.reports import SHOP, numbers, texts


def test_reading_returns_the_report_that_was_written() -> None:
    assert Report.from_json(SHOP.to_json()) == SHOP


def test_json_has_the_names_of_the_fields_and_a_schema() -> None:
    written = json.loads(SHOP.to_json())
    assert written["schema"] == 1
    assert written["service"] == "shop"
    assert written["worker"]["loop_lag_p99"] == SHOP.worker.loop_lag_p99
    assert written["routes"][0]["segments"] == dict(SHOP.routes[0].segments)
    finding = written["findings"][0]
    assert finding["severity"] == "critical"
    assert finding["call_site"] == {"file": "/srv/shop/orders.py", "line": 41, "function": "list_orders"}
    assert finding["evidence"]["repeats"] == 50
    assert finding["trace_ids"] == ["4bf92f3577b34da6a3ce929d0e0e4736"]


def test_a_field_of_a_later_version_is_ignored() -> None:
    written = json.loads(SHOP.to_json())
    written["moon"] = "full"
    written["routes"][0]["moon"] = "new"
    assert Report.from_json(json.dumps(written)) == SHOP


evidence = st.dictionaries(
    texts, st.one_of(texts, st.integers(), numbers, st.booleans(), st.lists(texts).map(tuple)), max_size=4
)
sites = st.none() | st.builds(CallSite, texts, st.integers(0, 9999), texts)
findings = st.builds(
    Finding,
    kind=texts,
    severity=st.sampled_from(Severity),
    subject=texts,
    message=texts,
    remedy=texts,
    evidence=evidence,
    call_site=sites,
    seconds=numbers,
    route=texts,
    first_seen=numbers,
    last_seen=numbers,
    count=st.integers(1),
    trace_ids=st.lists(texts).map(tuple),
)
routes = st.builds(
    RouteVerdict,
    method=texts,
    route=texts,
    requests=st.integers(),
    errors=st.integers(),
    seconds=numbers,
    p50=st.none() | numbers,
    segments=st.dictionaries(texts, numbers),
    sentence=texts,
)
workers = st.builds(
    WorkerVerdict,
    pid=st.integers(),
    uptime_seconds=numbers,
    requests_per_second=numbers,
    loop_utilization=st.none() | numbers,
    resident_bytes=st.none() | st.integers(),
    blocked_seconds=st.dictionaries(texts, numbers),
)
reports = st.builds(
    Report,
    service=texts,
    versions=st.dictionaries(texts, texts),
    made_at=numbers,
    worker=workers,
    routes=st.lists(routes, max_size=3).map(tuple),
    findings=st.lists(findings, max_size=3).map(tuple),
    troubles=st.dictionaries(texts, numbers),
)


@settings(max_examples=50)
@given(reports)
def test_reading_returns_any_report_that_was_written(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report


def test_values_that_json_does_not_have_are_still_written() -> None:
    odd = Finding(
        kind="odd",
        severity=Severity.INFO,
        subject="\udc80",
        message="",
        remedy="",
        evidence={"ratio": float("inf"), "name": "\udc80"},
        seconds=float("inf"),
    )
    report = Report(service="", versions={}, made_at=0.0, worker=SHOP.worker, routes=(), findings=(odd,))
    text = report.to_json()
    json.loads(text, parse_constant=pytest.fail)
    (read,) = Report.from_json(text).findings
    assert (read.subject, read.seconds, read.evidence) == ("\\udc80", float("inf"), {"ratio": "inf", "name": "\\udc80"})


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(SHOP.to_json()), **fields})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it has no schema"),
        ("{}", "it has no schema"),
        (changed(schema=2), "its schema is 2"),
        (changed(worker=None), "worker:"),
        (changed(routes=[{}]), "routes.0.method: Field required"),
        (changed(findings=[{"kind": 1}]), "findings.0.kind: Input should be a valid string"),
    ],
)
def test_a_text_that_is_no_report_is_refused_with_reason_and_remedy(text: str, why: str) -> None:
    with pytest.raises(ReportError) as caught:
        Report.from_json(text)
    assert isinstance(caught.value, FastPerfError)
    assert why in str(caught.value)
    assert "Remedy: " in str(caught.value)

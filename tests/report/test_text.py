"""The report in a terminal: verdict, findings with their remedies, and routes, in at most 100 columns."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_fastperf import Report, RouteVerdict, Severity
from otel_fastperf.report.formatting import width
from otel_fastperf.report.text import MOST_ROUTES, MOST_ROWS, to_text
from tests.reports import N_PLUS_ONE, ORDERS, PAY, SHOP


def lines(report: Report = SHOP) -> list[str]:
    return to_text(report, colour=False).splitlines()


def test_the_verdict_comes_first() -> None:
    assert lines()[:7] == [
        "shop: 1 critical bottleneck, 1 warning",
        "pid 4711, measured for 1 min, 20.7 requests and 1,050 SQL statements a second",
        "",
        "  Code held the event loop for 3.6 s (sync_io 3.2 s, cpu 400 ms)",
        "",
        "  GET /orders                     48 s  62 % database, 19 % waiting for a connection; n_plus_one at",
        "                                        shop/orders.py:41",
    ]


def test_a_finding_has_line_remedy_evidence_and_trace() -> None:
    shown = lines()
    start = shown.index("CRITICAL  n_plus_one in GET /orders  \N{MULTIPLICATION SIGN}100, 38 s in all")
    assert shown[start + 1 : start + 6] == [
        "  at shop/orders.py:41 in list_orders",
        "  'SELECT items' ran 50 times, 0.385 s in total: Order.items is loaded separately for each Order.",
        "  Remedy: Load all of them at once: select(Order).options(selectinload(Order.items)).",
        "  repeats 50; seconds 385 ms; share 81.0%; db.query.summary SELECT items; frames orders.py:41, main…",
        "  trace 4bf92f3577b34da6a3ce929d0e0e4736",
    ]


def test_findings_are_in_the_order_of_the_report() -> None:
    text = to_text(SHOP, colour=False)
    assert text.index("CRITICAL  n_plus_one") < text.index("WARNING  memory_growth outside of routes")


def test_the_remark_on_a_plan_is_a_separate_sentence() -> None:
    told = replace(N_PLUS_ONE, evidence={"plan_remark": "`items` is read from end to end.", "plan_hash": "9c65"})
    shown = lines(replace(SHOP, findings=(told,)))
    assert "  `items` is read from end to end." in shown
    assert "9c65" not in "".join(shown)


def test_routes_have_their_figures_and_a_bar_of_their_time() -> None:
    table = [line for line in lines() if re.match(r"Routes |GET /orders +1,|POST .* 10 ", line)]
    assert table == [
        "Routes                         requests  errors      p50      p95      p99     SQL  time",
        "GET /orders                       1,234            34 ms   120 ms   310 ms    51.0  ██████████ccc▓▓░",
        "POST /orders/{order_id}/pay          10       2   < 5 ms   > 10 s        -     3.0  ▓▓▓▓▓▓▓▓▓▓▓▓▓▓██",
    ]


def test_the_legend_contains_only_segments_that_occur() -> None:
    assert "█ database  ▓ the endpoint itself  ░ serialization  c waiting for a connection" in lines()


def test_an_unknown_segment_is_shown_as_other() -> None:
    odd = replace(PAY, segments={"teleport": 1.0})
    shown = lines(replace(SHOP, routes=(odd,)))
    assert any(line.endswith("?" * 16) for line in shown)
    assert "? other" in shown


def test_worker_and_telemetry_come_last() -> None:
    assert lines()[-9:] == [
        "event loop      62% busy",
        "timers late by  p50 1.0 ms, p99 210 ms",
        "loop blocked    3.60 s (sync_io 3.20 s, cpu 400 ms)",
        "threads         3 of 40 in use",
        "memory          143 MiB resident, 120 MiB unshared",
        "memory left     300 MiB",
        "collector       0.4% of the time",
        "own failures    12 \N{MULTIPLICATION SIGN} dropped_queue_full",
        "Made 2023-11-14 22:14:21 UTC by otel-fastperf 0.1.0, python 3.11.7",
    ]


def test_a_service_without_requests_is_reported_as_such() -> None:
    nothing = replace(SHOP, service="", routes=(), findings=(), troubles={})
    shown = lines(nothing)
    assert shown[0] == "This service: no bottleneck was seen"
    assert "  No request has been measured yet." in shown
    assert not [line for line in shown if line.startswith("Routes")]


def test_the_slowest_of_many_routes_are_shown() -> None:
    many = tuple(replace(ORDERS, route=f"/r{number}") for number in range(MOST_ROWS + 7))
    shown = lines(replace(SHOP, routes=many))
    assert sum(line.startswith("  GET /r") for line in shown) == MOST_ROUTES
    assert sum(line.startswith("GET /r") for line in shown) == MOST_ROWS
    assert "… and 7 more in the JSON" in shown


def test_colour_adds_colour_only() -> None:
    coloured = to_text(SHOP, colour=True)
    assert "\x1b[31mCRITICAL\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == to_text(SHOP, colour=False)


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J\x1b[31m", "a\r\nb\tc", "\u202eevil", "\udc80", "x" * 300, "漢字" * 100, ""]
)
def test_control_characters_in_foreign_text_are_escaped(hostile: str) -> None:
    finding = replace(N_PLUS_ONE, route=hostile, message=hostile, remedy=hostile, evidence={hostile: hostile})
    route = replace(ORDERS, method=hostile, route=hostile, sentence=hostile, segments={hostile: 1.0})
    worker = replace(SHOP.worker, sentence=hostile, blocked_seconds={hostile: 1.0})
    report = replace(SHOP, service=hostile, findings=(finding,), routes=(route,), worker=worker, troubles={hostile: 1})
    text = to_text(report, colour=False)
    text.encode()
    assert all(line.isprintable() for line in text.split("\n"))
    assert max(map(width, text.split("\n"))) <= 100


names = st.text(max_size=60)
anything = st.builds(
    Report,
    service=names,
    versions=st.dictionaries(names, names, max_size=3),
    made_at=st.floats(),
    worker=st.just(SHOP.worker),
    routes=st.lists(
        st.builds(
            RouteVerdict,
            method=names,
            route=names,
            requests=st.integers(0, 10**12),
            errors=st.integers(0, 10**12),
            seconds=st.floats(0, 1e9),
            p50=st.none() | st.floats(0, 1e3),
            statements=st.floats(0, 1e6),
            segments=st.dictionaries(names, st.floats(1e-9, 1e6), max_size=4),
            sentence=names,
        ),
        max_size=3,
    ).map(tuple),
    findings=st.lists(
        st.builds(
            lambda kind, message, severity, count: replace(
                N_PLUS_ONE, kind=kind, message=message, remedy=message, severity=severity, count=count
            ),
            names,
            names,
            st.sampled_from(Severity),
            st.integers(1, 10**12),
        ),
        max_size=3,
    ).map(tuple),
)


@settings(max_examples=60)
@given(anything)
def test_no_line_is_wider_than_a_hundred_columns(report: Report) -> None:
    for line in to_text(report, colour=False).split("\n"):
        assert width(line) <= 100, line

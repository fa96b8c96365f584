"""`pool_wait`: the wait, its pool, and the users of the connections."""

from typing import Any

from otel_fastperf.detectors.pool_wait import Holders, Leaks, PoolWait, detect_pool_wait
from otel_fastperf.detectors.repeated_waits import RepeatedWaits
from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.settings import DatabaseSettings


def found(**how: Any) -> list[Finding]:
    values: dict[str, Any] = {
        "pool": "db:5432/shop",
        "seconds": 0.4,
        "timed_out": False,
        "in_request": True,
        "size": 5,
        "most": 15,
        "used": 15,
        "waiting": 7,
        "holders": (Holders("/export", 12, 11.5), Holders("/orders", 3, 0.1)),
    }
    return list(detect_pool_wait(PoolWait(**values | how), DatabaseSettings()))


def test_a_wait_that_happened_once_has_to_be_longer() -> None:
    assert len(found(seconds=0.06)) == 1
    assert found(seconds=0.06, repeated=False) == []
    assert len(found(seconds=0.06, repeated=False, itself=True)) == 1
    assert len(found(seconds=0.01, repeated=False, timed_out=True)) == 1
    assert len(found(seconds=0.21, repeated=False)) == 1


def test_three_waits_within_a_minute_are_several() -> None:
    waits = RepeatedWaits()
    assert [waits.add(now) for now in (1.0, 20.0, 59.0, 81.0)] == [False, False, True, False]


def test_the_finding_names_the_users_of_the_connections() -> None:
    (finding,) = found()
    assert (finding.kind, finding.subject) == ("pool_wait", "db:5432/shop")
    assert finding.message == (
        "A request waited 0.400 s for a connection: 15 of 15 were in use, by /export (12, the longest for 11.500 s);"
        " /orders (3, the longest for 0.100 s)."
    )
    assert "in /export: commit or close" in finding.remedy
    assert "pool_size in create_engine() above 5" in finding.remedy
    assert finding.severity is Severity.WARNING
    assert finding.evidence["holders"] == (
        "/export (12, the longest for 11.500 s)",
        "/orders (3, the longest for 0.100 s)",
    )


def test_connections_in_use_outside_of_requests_are_named_as_such() -> None:
    (finding,) = found(holders=(Holders("", 15, 3.0),))
    assert "in use, by code outside of requests (15," in finding.message


def test_a_time_out_is_critical_however_short_the_wait() -> None:
    (finding,) = found(timed_out=True, seconds=0.01)
    assert finding.severity is Severity.CRITICAL
    assert "A request waited 0.010 s for a connection and timed out: " in finding.message


def test_a_wait_for_a_second_connection_warns_of_a_deadlock() -> None:
    (finding,) = found(itself=True)
    assert "deadlock" in finding.remedy


def test_parallel_connections_of_one_request_are_no_deadlock() -> None:
    (finding,) = found(parallel=9)
    assert finding.message.endswith(" One request alone uses 9 of them at once, in parallel tasks.")
    assert "with one statement in one session" in finding.remedy
    assert "deadlock" not in finding.remedy


def test_a_request_with_a_second_connection_now_and_then_does_not_exhaust_the_pool() -> None:
    (finding,) = found(parallel=2)
    assert finding.remedy.startswith("Return the connection before awaiting other work")


def test_a_leak_is_told_as_one_and_belongs_to_the_line_that_leaks() -> None:
    site = CallSite("/srv/shop/stock.py", 12, "stock_of")
    (finding,) = found(timed_out=True, leaks=(Leaks("/stock", 14, 9.71, site), Leaks("/orders", 1, 2.0, None)))
    assert (finding.route, finding.call_site) == ("/stock", site)
    assert finding.message.endswith(
        " 15 of them leaked: their requests ended without giving them back, the first was checked out 9.7 s ago"
        " (14 by /stock at shop/stock.py:12 in stock_of; 1 by /orders)."
    )
    assert finding.remedy.startswith("Close the session or connection that shop/stock.py:12 in stock_of opens,")
    assert (finding.evidence["leaked"], finding.evidence["leaked_at"]) == (15, (str(site),))


def test_a_leak_belongs_to_the_method_and_the_route_whatever_that_contains() -> None:
    for method, route in (("POST", "/graphql getOrders"), ("GET", "unmatched"), ("", "/stock")):
        leak = Leaks(f"{method} {route}".strip(), 14, 9.71, None)
        (finding,) = found(timed_out=True, leaks=(leak,))
        assert (finding.method, finding.route) == (method, route)


def test_a_leak_without_a_known_line_names_the_route() -> None:
    (finding,) = found(leaks=(Leaks("/stock", 15, 9.71, None),))
    assert finding.remedy.startswith("Close the session or connection that a request to /stock opens,")


def test_a_short_wait_is_not_reported() -> None:
    assert found(seconds=0.049) == []


def test_a_time_out_outside_of_requests_is_reported_as_such() -> None:
    (finding,) = found(timed_out=True, in_request=False)
    assert finding.message.startswith("Code outside of requests waited 0.400 s for a connection and timed out: ")

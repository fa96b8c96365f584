"""`pool_wait`: the wait, its pool, and the users of the connections."""

from typing import Any

from otel_fastperf.detectors.pool_wait import Holders, PoolWait, detect_pool_wait
from otel_fastperf.findings import Finding, Severity
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
        "itself": False,
    }
    return list(detect_pool_wait(PoolWait(**values | how), DatabaseSettings()))


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


def test_a_short_wait_is_not_reported() -> None:
    assert found(seconds=0.049) == []


def test_a_time_out_outside_of_requests_is_reported_as_such() -> None:
    (finding,) = found(timed_out=True, in_request=False)
    assert finding.message.startswith("Code outside of requests waited 0.400 s for a connection and timed out: ")

"""`blocking_call`: what is reported about code that blocked the event loop, and when nothing is."""

from typing import Any

import pytest

from otel_fastperf.detectors.blocking_call import BlockedLoop, detect_blocking_call
from otel_fastperf.event_loop.cause import BlockedBy
from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.settings import LoopSettings

LINE = CallSite("/srv/shop/bank.py", 41, "fetch_rate")
OUTER = CallSite("/srv/shop/orders.py", 12, "price")


def found(
    cause: BlockedBy, *, seconds: float = 0.15, call_site: CallSite | None = LINE, waiting: int = 7, **facts: Any
) -> list[Finding]:
    blocked = BlockedLoop(
        seconds=seconds,
        cause=cause,
        call_site=call_site,
        frames=(LINE, OUTER),
        route="/orders",
        waiting=waiting,
        **facts,
    )
    return list(detect_blocking_call(blocked, LoopSettings()))


def test_a_blocking_call_is_reported_with_line_cause_and_waiting_requests() -> None:
    (finding,) = found(BlockedBy.SYNC_IO)
    assert finding.kind == "blocking_call"
    assert finding.severity is Severity.WARNING
    assert finding.message == "Code blocked the event loop for 0.15 s (sync_io); 7 other requests waited."
    assert (finding.subject, finding.call_site, finding.route) == ("fetch_rate", LINE, "/orders")
    assert finding.seconds == 0.15
    assert finding.evidence == {
        "seconds": 0.15,
        "cause": "sync_io",
        "frames": ("shop/bank.py:41 in fetch_rate", "shop/orders.py:12 in price"),
        "waiting_requests": 7,
    }


@pytest.mark.parametrize(
    ("cause", "named"),
    [
        (BlockedBy.SYNC_IO, "Await an async client"),
        (BlockedBy.SYNC_IO, "asyncio.to_thread"),
        (BlockedBy.SYNC_IO, "make the endpoint `def`"),
        (BlockedBy.CPU, "ProcessPoolExecutor"),
        (BlockedBy.CPU, "asyncio.to_thread"),
        (BlockedBy.GIL_HELD, "a thread does not help"),
    ],
)
def test_the_remedy_fits_the_cause(cause: BlockedBy, named: str) -> None:
    (finding,) = found(cause)
    assert named in finding.remedy
    assert "fetch_rate" in finding.remedy


@pytest.mark.parametrize(("seconds", "severity"), [(0.99, Severity.WARNING), (1.0, Severity.CRITICAL)])
def test_a_block_of_a_second_is_critical(seconds: float, severity: Severity) -> None:
    (finding,) = found(BlockedBy.CPU, seconds=seconds)
    assert finding.severity is severity


def test_one_waiting_request_is_in_the_singular() -> None:
    (finding,) = found(BlockedBy.CPU, waiting=1)
    assert finding.message.endswith("; 1 other request waited.")


def test_a_block_below_the_threshold_is_not_reported() -> None:
    assert found(BlockedBy.CPU, seconds=0.099) == []


def test_a_pause_of_the_garbage_collector_is_another_kind() -> None:
    assert found(BlockedBy.GC, seconds=2.0) == []


def test_time_that_is_not_the_code_s_fault_does_not_count() -> None:
    assert found(BlockedBy.CPU, seconds=0.15, lost=0.06) == []
    assert found(BlockedBy.CPU, seconds=0.15, lost=0.04)


def test_a_synchronous_statement_is_another_kind() -> None:
    assert found(BlockedBy.SYNC_IO, in_database=True) == []


def test_other_threads_are_blamed_without_a_line() -> None:
    (finding,) = found(BlockedBy.GIL_HELD, call_site=None, seconds=1.5)
    assert finding.message.startswith("Other threads kept the GIL from the event loop for 1.50 s")
    assert finding.subject == "event loop"
    assert "`def` endpoints" in finding.remedy


@pytest.mark.parametrize("cause", [BlockedBy.DESCHEDULED, BlockedBy.GIL_HELD])
def test_a_block_by_a_busy_machine_or_process_is_no_finding(cause: BlockedBy) -> None:
    assert found(cause, seconds=0.9, call_site=None) == []


def test_a_process_stopped_for_a_second_is_a_finding_without_a_line() -> None:
    (finding,) = found(BlockedBy.DESCHEDULED, seconds=1.5, call_site=None)
    assert finding.message.startswith("The process did not run for 1.50 s (descheduled)")
    assert finding.subject == "process"
    assert "CPU limit" in finding.remedy

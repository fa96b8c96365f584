"""`sync_db_on_loop`: one finding for the synchronous statements of a request, at the line that blocked the loop."""

from typing import Any

import pytest

from otel_fastperf.detectors.sync_db_on_loop import Homes, detect_sync_db_on_loop
from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.requests.record import BlockedCaller, StatementGroup
from otel_fastperf.requests.time_budget import Phase
from otel_fastperf.settings import DatabaseSettings
from tests.detectors.records import LINE, changed, ended, repeated

OTHER_LINE = CallSite("/srv/shop/users.py", 17, "current_user")


def blocking(seconds: float, line: CallSite = LINE, **how: Any) -> StatementGroup:
    return changed(repeated(times=2, **how), loop_count=2, loop_seconds=seconds, call_site=line)


def found(*groups: StatementGroup) -> list[Finding]:
    return list(detect_sync_db_on_loop(ended(*groups), DatabaseSettings()))


def test_the_finding_has_call_site_engine_and_remedy() -> None:
    (finding,) = found(blocking(0.02))
    assert (finding.kind, finding.subject, finding.call_site) == ("sync_db_on_loop", "SELECT items", LINE)
    assert (
        finding.message
        == "2 synchronous statements blocked the event loop for 0.0200 s: 'SELECT items' on postgresql shop."
    )
    assert 'create_async_engine("postgresql+asyncpg://…")' in finding.remedy
    assert "`def`" in finding.remedy
    assert finding.evidence["statements"] == 2
    assert finding.evidence["lines"] == ("shop/orders.py:41 in list_orders",)


def test_several_statements_are_one_finding_at_the_first_line_above_the_threshold() -> None:
    groups = blocking(0.001, OTHER_LINE), blocking(0.018), blocking(0.02, OTHER_LINE)
    (finding,) = found(*groups)
    assert finding.call_site == LINE
    assert finding.seconds == pytest.approx(0.039)
    assert finding.evidence["statements"] == 6
    assert len(finding.evidence["lines"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("by_framework", "phase", "remedy"),
    [
        (True, Phase.HANDLER, "declare the endpoint current_user with `def`"),
        (True, Phase.DEPENDENCIES, "declare the dependency current_user with `def`"),
        (False, Phase.HANDLER, "run list_orders in a thread: `await run_in_threadpool(…)` in current_user"),
        (True, Phase.MIDDLEWARE, "run list_orders in a thread: `await run_in_threadpool(…)` in current_user"),
    ],
)
def test_the_coroutine_that_called_is_named(by_framework: bool, phase: int, remedy: str) -> None:
    caller = BlockedCaller(OTHER_LINE, by_framework, phase)
    (finding,) = found(changed(blocking(0.02), caller=caller))
    assert finding.call_site == (LINE if phase == Phase.HANDLER else OTHER_LINE)
    assert remedy in finding.remedy
    assert finding.evidence["lines"] == ("shop/orders.py:41 in list_orders",)


def test_a_dependency_of_several_routes_is_one_finding() -> None:
    homes: Homes = {}

    def routes(phase: int) -> list[str]:
        found = []
        for path in ("/carts", "/orders"):
            record = ended(changed(blocking(0.02), caller=BlockedCaller(OTHER_LINE, True, phase)))
            record.scope["method"] = "GET"
            record._route, record._is_route_final = path, True
            found += [finding.route for finding in detect_sync_db_on_loop(record, DatabaseSettings(), homes)]
        return found

    assert routes(Phase.DEPENDENCIES) == ["/carts", "/carts"]
    assert routes(Phase.HANDLER) == ["", ""]  # that of the request


def test_the_remedy_names_a_driver_of_the_database() -> None:
    assert "sqlite+aiosqlite://" in found(blocking(0.02, dialect="sqlite"))[0].remedy
    assert "db2+…://" in found(blocking(0.02, dialect="db2"))[0].remedy


def test_a_noticeable_block_is_critical() -> None:
    assert found(blocking(0.02))[0].severity is Severity.WARNING
    assert found(blocking(0.2))[0].severity is Severity.CRITICAL


def test_short_blocks_and_other_statements_are_not_reported() -> None:
    assert found(blocking(0.0002), blocking(0.0002)) == []
    assert len(found(blocking(0.0006), blocking(0.0006))) == 1
    assert found(repeated()) == []

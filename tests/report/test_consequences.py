"""What follows from another finding is told with it, and is no finding of its own: shown by real requests."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from fastapi import FastAPI
from sqlalchemy import AsyncAdaptedQueuePool, Engine, QueuePool, create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from otel_fastperf import Settings, setup_telemetry
from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.report.consequences import told
from otel_fastperf.report.html import to_html
from otel_fastperf.report.model import Report
from otel_fastperf.report.text import to_text
from tests.reports import N_PLUS_ONE
from tests.serving import serve, wait_until

THREADS = 2


@asynccontextmanager
async def few_threads(_app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield


def measured(app: FastAPI, paths: Sequence[str]) -> Report:
    """The report after these requests, all at once."""
    settings = Settings(loop={"start_after": 0}, memory={"enabled": False})
    with (
        setup_telemetry(app, settings=settings) as telemetry,
        serve(app) as server,
        ThreadPoolExecutor(len(paths)) as clients,
    ):
        answers = list(clients.map(server.get, paths))
        assert {answer.status for answer in answers} == {200}
        wait_until(
            lambda: sum(route.requests for route in telemetry.diagnose().routes) == len(paths), what="all are measured"
        )
        return telemetry.diagnose()


def engine_that_pauses(pool_size: int) -> Engine:
    """An engine whose database takes its time: `SELECT pause(seconds)`."""
    shared = {"check_same_thread": False}
    engine = create_engine("sqlite://", connect_args=shared, poolclass=QueuePool, pool_size=pool_size, max_overflow=0)

    @event.listens_for(engine, "connect")
    def add_function(connection: Any, _record: object) -> None:
        connection.create_function("pause", 1, time.sleep)

    return engine


def kinds(report: Report) -> list[str]:
    return [finding.kind for finding in report.findings]


def consequences(report: Report) -> list[tuple[str, str]]:
    (cause,) = report.findings
    return [(each.kind, each.route) for each in report.consequences[cause.fingerprint]]


def test_threads_that_a_slow_statement_occupies_make_others_wait() -> None:
    app, engine = FastAPI(lifespan=few_threads), engine_that_pauses(8)

    @app.get("/report")
    def report() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT pause(0.8)"))

    @app.get("/price")
    def price() -> None:
        """Has no fault."""

    found = measured(app, [*["/report"] * 4, *["/price"] * 4])
    assert kinds(found) == ["slow_query"]
    assert set(consequences(found)) == {("threadpool_wait", "/report"), ("threadpool_wait", "/price")}
    assert "slow_query" in found.advice
    # they are saved with it
    waits = [route.segments.get("threadpool_wait", 0.0) for route in found.routes]
    assert found.savings[found.findings[0].fingerprint] >= sum(waits) > 0
    victim = next(route for route in found.routes if route.route == "/price")
    assert "because of" in victim.sentence
    for said in (to_text(found, colour=False), to_html(found)):
        assert "Hence:" in said
        assert "threadpool_wait in GET /price" in said
    assert Report.from_json(found.to_json()) == found


def test_connections_that_a_slow_statement_keeps_make_others_wait() -> None:
    app, engine = FastAPI(), engine_that_pauses(1)

    @app.get("/report")
    def report() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT pause(0.8)"))

    found = measured(app, ["/report"] * 3)
    assert kinds(found) == ["slow_query"]
    assert consequences(found) == [("pool_wait", "/report")]


def test_connections_that_are_kept_during_something_else_are_a_fault_of_their_own() -> None:
    app, engine = FastAPI(), engine_that_pauses(1)

    @app.get("/pay")
    def pay() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT pause(0.55)"))
            time.sleep(0.9)

    found = measured(app, ["/pay"] * 3)
    assert set(kinds(found)) == {"slow_query", "pool_wait"}
    assert found.consequences == {}


def test_a_blocked_loop_makes_no_waits_for_connections_and_threads(tmp_path: Path) -> None:
    """The healthy twins beside it have none, and nothing else is told of it than the block."""
    app = FastAPI(lifespan=few_threads)
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/shop.sqlite3", poolclass=AsyncAdaptedQueuePool, pool_size=2, max_overflow=0
    )

    @app.get("/rate")
    async def rate() -> None:
        time.sleep(0.5)

    @app.get("/stock")
    async def stock() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        await asyncio.sleep(0.1)

    @app.get("/label")
    def label() -> None:
        """Has no fault."""

    found = measured(app, [*["/stock"] * 6, *["/label"] * 6, "/rate", *["/stock"] * 6, *["/label"] * 6])
    assert kinds(found) == ["blocking_call"]
    assert found.consequences == {}


SITE = CallSite("/srv/shop/rates.py", 34, "rate")
WAIT = Finding(
    kind=Kind.THREADPOOL_WAIT,
    severity=Severity.CRITICAL,
    subject="threads",
    message="A request waited.",
    remedy="free them",
    call_site=SITE,
    seconds=9.0,
    method="GET",
    route="/price",
)


def test_a_cause_is_as_severe_as_its_consequences() -> None:
    mild = replace(N_PLUS_ONE, severity=Severity.WARNING, call_site=SITE)
    (cause,) = told([WAIT, mild]).findings
    assert (cause.kind, cause.severity) == ("n_plus_one", Severity.CRITICAL)
    assert told([WAIT, mild]).consequences == {mild.fingerprint: (WAIT,)}


def test_threads_wait_for_a_connection_that_a_statement_keeps() -> None:
    pool = replace(
        WAIT,
        kind=Kind.POOL_WAIT,
        subject="shop",
        evidence={"held_by": "GET /orders", "held_seconds": 0.4},
        seconds=20.0,
    )
    assert told([WAIT, pool, N_PLUS_ONE]) == ((N_PLUS_ONE,), {N_PLUS_ONE.fingerprint: (WAIT, pool)})


@pytest.mark.parametrize("other", [replace(N_PLUS_ONE, route="/other"), replace(N_PLUS_ONE, seconds=1.0)])
def test_statements_of_another_route_and_short_ones_keep_no_connections(other: Finding) -> None:
    pool = replace(WAIT, kind=Kind.POOL_WAIT, evidence={"held_by": "GET /orders", "held_seconds": 0.4})
    assert told([pool, other]) == ((pool, other), {})


def test_of_several_victims_one_is_told() -> None:
    again = replace(WAIT, route="/other", seconds=20.0)
    assert told([WAIT, again]) == ((again,), {again.fingerprint: (WAIT,)})
    elsewhere = replace(again, call_site=None)
    assert told([WAIT, elsewhere]) == ((WAIT, elsewhere), {})


@pytest.mark.parametrize("kind", [Kind.THREADPOOL_WAIT, Kind.POOL_WAIT])
def test_of_several_victims_the_one_at_fault_is_told(kind: Kind) -> None:
    guilty, victim = (
        replace(WAIT, kind=kind, route=route, seconds=seconds, evidence={"held_by": "GET /export"})
        for route, seconds in (("/export", 1.0), ("/price", 9.0))
    )
    assert told([victim, guilty]) == ((guilty,), {guilty.fingerprint: (victim,)})
    other_pool = replace(victim, subject="other", call_site=None)
    assert told([other_pool, guilty]).consequences == {}


def test_the_collector_walks_the_objects_of_a_large_result() -> None:
    pause = replace(WAIT, kind=Kind.GC_PAUSE, call_site=None, route="/export")
    rows = replace(WAIT, kind=Kind.LARGE_RESULT, route="/export")
    assert told([pause, rows]) == ((rows,), {rows.fingerprint: (pause,)})
    elsewhere = replace(pause, route="", method="")
    assert told([elsewhere, rows]) == ((elsewhere, rows), {})


def test_the_collector_walks_the_objects_of_a_route_in_whatever_runs_then() -> None:
    elsewhere = replace(WAIT, kind=Kind.GC_PAUSE, call_site=None, route="", method="", evidence={"explicit": False})
    known = replace(elsewhere, method="GET", route="/export", evidence={"explicit": False, "in_route": 19})
    assert told([elsewhere, known]) == ((known,), {known.fingerprint: (elsewhere,)})
    by_hand = replace(elsewhere, subject="gc.collect()", evidence={"explicit": True})
    assert told([by_hand, known]) == ((by_hand, known), {})

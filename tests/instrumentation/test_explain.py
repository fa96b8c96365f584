"""Plans of slow reads are made on a separate connection that sends nothing else, and without effects on the app."""

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind
from sqlalchemy import Connection, Engine, NullPool, StaticPool, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.instrumentation.explain import explain_slow_queries
from otel_fastperf.instrumentation.pool import instrument_pool
from otel_fastperf.instrumentation.slow_statement import SlowStatement
from otel_fastperf.instrumentation.statements import instrument_database
from otel_fastperf.settings import DatabaseSettings, ExplainSettings
from tests.conftest import Probe
from tests.mariadb import with_mysql_driver
from tests.postgresql import with_driver
from tests.threads import new_threads

OnSlow = Callable[[SlowStatement], None]
Threads = Callable[[], list[threading.Thread]]

ROWS = 20_000
SECRET = "ada@example.org"
BY_EMAIL = "SELECT people.id FROM people WHERE people.email = :email"
MISSING = "CREATE INDEX ix_people_email ON people (email)"
DEADLINE = 20.0


@pytest.fixture
def on_slow(probe: Probe) -> Iterator[OnSlow]:
    with explain_slow_queries(ExplainSettings(), probe.signals) as take:
        yield take


@pytest.fixture
def new_engine() -> Iterator[Callable[..., Engine]]:
    """Make engines whose connections are closed at the end."""
    with ExitStack() as stack:

        def make(url: str, **options: Any) -> Engine:
            engine = create_engine(url, **options)
            stack.callback(engine.dispose)
            return engine

        yield make


@pytest.fixture
def sqlite(tmp_path: Path, new_engine: Callable[..., Engine]) -> Engine:
    engine = new_engine(f"sqlite:///{tmp_path / 'people.db'}")
    with engine.begin() as connection:
        fill(connection)
    return engine


@pytest.fixture
def postgresql(postgresql_url: str, new_engine: Callable[..., Engine]) -> Engine:
    engine = new_engine(with_driver(postgresql_url, "psycopg"))
    with engine.begin() as connection:
        fill(connection)
    return engine


def fill(connection: Connection) -> None:
    connection.execute(text("DROP TABLE IF EXISTS people"))
    connection.execute(text("CREATE TABLE people (id INTEGER PRIMARY KEY, email VARCHAR(100))"))
    rows = [{"id": number, "email": f"{number}@example.org"} for number in range(ROWS)]
    connection.execute(text("INSERT INTO people VALUES (:id, :email)"), rows)
    if connection.dialect.name == "postgresql":
        connection.execute(text("ANALYZE people"))


def executed(engine: Engine, statement: str = BY_EMAIL, **parameters: Any) -> dict[str, Any]:
    """Execute the statement, and return the text and parameters that the driver got."""
    with caught(engine) as seen, engine.begin() as connection:
        connection.execute(text(statement), parameters)
    return seen


@contextmanager
def caught(engine: Engine) -> Iterator[dict[str, Any]]:
    seen: dict[str, Any] = {}

    def before(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.update(text=statement, parameters=parameters)

    event.listen(engine, "before_cursor_execute", before)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", before)


def slow(
    engine: Engine, seen: dict[str, Any] | None = None, *, fingerprint: str = "f", span: Any = None
) -> SlowStatement:
    if seen is None:
        seen = executed(engine, email=SECRET)
    return SlowStatement(
        engine=engine,
        dialect=engine.dialect.name,
        fingerprint=fingerprint,
        summary="SELECT people",
        seconds=0.7,
        record=None,
        span=span,
        **seen,
    )


def slow_query(fingerprint: str = "f", route: str = "/people") -> Finding:
    """A finding as the detector reports it."""
    return Finding(
        kind=Kind.SLOW_QUERY,
        severity=Severity.WARNING,
        subject="SELECT people",
        message="SELECT people took 0.7 s.",
        remedy="Make it fast.",
        evidence={"db.query.fingerprint": fingerprint},
        route=route,
    )


def wait_for(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)
    return value


def outcomes(probe: Probe, outcome: str) -> float:
    return probe.value("fastperf_explain_total", outcome=outcome) or 0.0


def explained(probe: Probe, times: int = 1) -> None:
    wait_for(lambda: outcomes(probe, "explained") >= times)


def explains(probe: Probe) -> list[ReadableSpan]:
    return [span for span in probe.spans() if span.name.startswith("EXPLAIN")]


@pytest.fixture
def threads() -> Threads:
    """The threads that explain, except those that earlier tests have left."""
    before = threading.enumerate()
    return lambda: new_threads(before, name="otel_fastperf-explain")


# the plan


def test_a_finding_gets_the_plan_of_its_statement(probe: Probe, on_slow: OnSlow, sqlite: Engine) -> None:
    probe.signals.findings.report(slow_query())
    on_slow(slow(sqlite))
    (finding,) = wait_for(lambda: [each for each in probe.findings() if "plan" in each.evidence])
    assert str(finding.evidence["plan"]).startswith("Query\n  SCAN people")
    assert MISSING in str(finding.evidence["plan_remark"])
    assert MISSING in finding.remedy
    assert len(str(finding.evidence["plan_hash"])) == 16


def test_a_finding_that_is_reported_later_gets_the_plan_on_any_route(
    probe: Probe, on_slow: OnSlow, sqlite: Engine
) -> None:
    on_slow(slow(sqlite))
    explained(probe)
    probe.signals.findings.report(slow_query())
    probe.signals.findings.report(slow_query(route="/others"))
    assert ["plan" in finding.evidence for finding in probe.findings()] == [True, True]


def test_a_finding_of_another_statement_gets_no_plan(probe: Probe, on_slow: OnSlow, sqlite: Engine) -> None:
    probe.signals.findings.report(slow_query("another"))
    on_slow(slow(sqlite))
    explained(probe)
    probe.signals.findings.report(slow_query("another"))
    (finding,) = probe.findings()
    assert "plan" not in finding.evidence


def test_the_plan_is_an_event_on_a_span_under_the_statement(probe: Probe, on_slow: OnSlow, sqlite: Engine) -> None:
    span = probe.signals.tracer.start_span("SELECT people", kind=SpanKind.CLIENT)
    span.end()
    on_slow(slow(sqlite, span=span))
    (explain,) = wait_for(lambda: explains(probe))
    assert explain.name == "EXPLAIN SELECT people"
    assert explain.kind is SpanKind.INTERNAL
    assert explain.parent is not None
    assert explain.parent.span_id == span.get_span_context().span_id
    (told,) = explain.events
    attributes = dict(told.attributes or {})
    assert told.name == "fastperf.explain"
    assert dict(explain.attributes or {}) == {
        "db.system.name": "sqlite",
        "db.query.summary": "SELECT people",
        "fastperf.plan.hash": attributes["fastperf.plan.hash"],
    }
    assert attributes["fastperf.plan.text"] == f"Query\n  SCAN people  (of={ROWS - 1:,})"
    assert attributes["fastperf.plan.scans"] == (f"people ({ROWS - 1:,} rows)",)
    assert MISSING in str(attributes["fastperf.plan.remark"])


def test_an_unsampled_statement_gets_no_span(probe: Probe, on_slow: OnSlow, sqlite: Engine) -> None:
    on_slow(slow(sqlite, span=TracerProvider(sampler=ALWAYS_OFF).get_tracer("x").start_span("SELECT people")))
    explained(probe)
    assert explains(probe) == []


def test_the_text_of_a_plan_has_the_maximum_length(probe: Probe, sqlite: Engine) -> None:
    many = " UNION ALL ".join(["SELECT id FROM people"] * 50)
    with explain_slow_queries(ExplainSettings(max_length=256), probe.signals) as on_slow:
        probe.signals.findings.report(slow_query())
        on_slow(slow(sqlite, executed(sqlite, many)))
        (finding,) = wait_for(lambda: [each for each in probe.findings() if "plan" in each.evidence])
    assert len(str(finding.evidence["plan"])) <= 256


# databases and drivers


async def filled(engine: AsyncEngine) -> dict[str, Any]:
    """Fill the database, execute the statement, and return the text and parameters that the driver got."""
    async with engine.begin() as connection:
        await connection.run_sync(fill)
    with caught(engine.sync_engine) as seen:
        async with engine.begin() as connection:
            await connection.execute(text(BY_EMAIL), {"email": SECRET})
    await engine.dispose()
    return seen


def assert_explains(probe: Probe, on_slow: OnSlow, statement: SlowStatement, *, system: str) -> None:
    span = probe.signals.tracer.start_span("SELECT people")
    on_slow(slow(statement.engine, {"text": statement.text, "parameters": statement.parameters}, span=span))
    (explain,) = wait_for(lambda: explains(probe))
    attributes = dict(explain.events[0].attributes or {})
    assert (explain.attributes or {})["db.system.name"] == system
    assert MISSING in str(attributes["fastperf.plan.remark"])
    assert SECRET not in str(attributes)
    assert probe.failures == []


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_statements_of_postgresql_are_explained(
    probe: Probe, on_slow: OnSlow, postgresql_url: str, new_engine: Callable[..., Engine], driver: str
) -> None:
    pytest.importorskip(driver, reason=f"needs the driver {driver}")
    engine = new_engine(with_driver(postgresql_url, driver))
    with engine.begin() as connection:
        fill(connection)
    assert_explains(probe, on_slow, slow(engine), system="postgresql")


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg_async"])
async def test_statements_of_postgresql_by_async_drivers_are_explained(
    probe: Probe, on_slow: OnSlow, postgresql_url: str, driver: str
) -> None:
    engine = create_async_engine(with_driver(postgresql_url, driver))
    statement = slow(engine.sync_engine, await filled(engine))
    assert_explains(probe, on_slow, statement, system="postgresql")


@pytest.mark.anyio
async def test_statements_of_sqlite_by_an_async_driver_are_explained(
    probe: Probe, on_slow: OnSlow, tmp_path: Path
) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'people.db'}")
    statement = slow(engine.sync_engine, await filled(engine))
    assert_explains(probe, on_slow, statement, system="sqlite")


def test_statements_of_mariadb_are_explained(
    probe: Probe, on_slow: OnSlow, mariadb_url: str, new_engine: Callable[..., Engine]
) -> None:
    engine = new_engine(with_mysql_driver(mariadb_url, "pymysql"))
    with engine.begin() as connection:
        fill(connection)
    assert_explains(probe, on_slow, slow(engine), system="mariadb")


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["aiomysql", "asyncmy"])
async def test_statements_of_mariadb_by_async_drivers_are_explained(
    probe: Probe, on_slow: OnSlow, mariadb_url: str, driver: str
) -> None:
    engine = create_async_engine(with_mysql_driver(mariadb_url, driver))
    statement = slow(engine.sync_engine, await filled(engine))
    assert_explains(probe, on_slow, statement, system="mariadb")


# statements sent to the database


def sent(engine: Engine) -> list[str]:
    """Every statement that SQLite runs on connections made from now on."""
    statements: list[str] = []
    event.listen(engine, "connect", lambda connection, _entry: connection.set_trace_callback(statements.append))
    return statements


def test_the_statement_is_never_executed_again(probe: Probe, on_slow: OnSlow, sqlite: Engine) -> None:
    """SQLite reports the statements that it executes; EXPLAIN does not make it execute this one."""
    statement = slow(sqlite)
    statements = sent(sqlite)
    on_slow(statement)
    explained(probe)
    assert statements[:2] == ["PRAGMA busy_timeout = 2000", "PRAGMA query_only = ON"]
    # the number of rows, by the largest rowid, and the indexes of the table
    assert [seen for seen in statements[2:] if not seen.startswith(("SELECT 'people', CASE", "-- PRAGMA"))] == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM people WHERE email = :email",
        "UPDATE people SET email = 'x' WHERE email = :email",
        "INSERT INTO people (email) VALUES (:email)",
        "WITH x AS (SELECT :email) DELETE FROM people",
    ],
)
def test_a_write_is_never_explained(probe: Probe, on_slow: OnSlow, sqlite: Engine, statement: str) -> None:
    seen = executed(sqlite, statement, email=SECRET)
    statements = sent(sqlite)
    on_slow(slow(sqlite, seen))
    wait_for(lambda: outcomes(probe, "not_a_read"))
    assert statements == []


def test_a_function_that_is_called_by_the_planner_cannot_write(
    probe: Probe, on_slow: OnSlow, postgresql: Engine
) -> None:
    """PostgreSQL calls functions declared IMMUTABLE to make a plan; the transaction is read-only."""
    with postgresql.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS marks"))
        connection.execute(text("CREATE TABLE marks (id INTEGER)"))
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION mark() RETURNS integer LANGUAGE plpgsql IMMUTABLE AS"
                " 'BEGIN INSERT INTO marks VALUES (1); RETURN 1; END'"
            )
        )
    on_slow(slow(postgresql, {"text": "SELECT * FROM people WHERE id = mark()", "parameters": ()}))
    wait_for(lambda: outcomes(probe, "failed"))
    with postgresql.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM marks")) == 0


def test_a_statement_is_explained_once_per_cooldown(probe: Probe, on_slow: OnSlow, sqlite: Engine) -> None:
    for _ in range(5):
        on_slow(slow(sqlite))
    on_slow(slow(sqlite, fingerprint="another"))
    explained(probe, 2)
    assert outcomes(probe, "explained") == 2


def test_a_statement_is_explained_again_after_the_cooldown(probe: Probe, sqlite: Engine) -> None:
    with explain_slow_queries(ExplainSettings(cooldown=0.0), probe.signals) as on_slow:
        on_slow(slow(sqlite))
        explained(probe)
        probe.signals.findings.report(slow_query())
        wait_for(lambda: "plan" in probe.findings()[0].evidence)
        with sqlite.begin() as connection:
            connection.execute(text("CREATE INDEX ix_people_email ON people (email)"))
        on_slow(slow(sqlite))
        wait_for(lambda: "USING COVERING INDEX ix_people_email" in str(probe.findings()[0].evidence["plan"]))
    assert probe.findings()[0].evidence["plan_remark"] == ""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_plan_that_reads_few_rows_gets_no_index(
    probe: Probe, on_slow: OnSlow, request: pytest.FixtureRequest, database: str
) -> None:
    engine: Engine = request.getfixturevalue(database)
    probe.signals.findings.report(slow_query())
    on_slow(slow(engine, {"text": "SELECT * FROM people WHERE id = 7", "parameters": ()}))
    (finding,) = wait_for(lambda: [each for each in probe.findings() if "plan" in each.evidence])
    assert finding.remedy.startswith("The plan reads few rows (about 1), so no index helps.")


def test_a_deep_page_keeps_its_remedy(probe: Probe, on_slow: OnSlow, sqlite: Engine) -> None:
    probe.signals.findings.report(replace(slow_query(), evidence={"db.query.fingerprint": "f", "rows_skipped": 9000}))
    on_slow(slow(sqlite, fingerprint="f"))
    (finding,) = wait_for(lambda: [each for each in probe.findings() if "plan" in each.evidence])
    assert finding.remedy == slow_query().remedy


# the connection


def test_the_connection_is_made_and_set_up_like_the_app_s_own(
    probe: Probe, on_slow: OnSlow, postgresql_url: str, new_engine: Callable[..., Engine]
) -> None:
    """By `do_connect` and `connect` listeners: only the right search_path finds the table."""
    engine = new_engine(with_driver(postgresql_url, "psycopg"))
    made = []

    @event.listens_for(engine, "do_connect")
    def count(*_: Any) -> None:
        made.append(threading.current_thread().name)

    @event.listens_for(engine, "connect")
    def choose(connection: Any, _entry: Any) -> None:
        connection.cursor().execute("SET search_path = hidden")

    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS hidden"))
        fill(connection)
    statement = slow(engine)
    on_slow(statement)
    explained(probe)
    assert made[-1] == "otel_fastperf-explain"


def test_the_app_s_pool_is_not_used(probe: Probe, on_slow: OnSlow, sqlite: Engine) -> None:
    statement = slow(sqlite)
    before = sqlite.pool.status()
    on_slow(statement)
    explained(probe)
    assert sqlite.pool.status() == before


def test_the_connection_is_closed_after_each_plan(probe: Probe, on_slow: OnSlow, postgresql: Engine) -> None:
    on_slow(slow(postgresql))
    explained(probe)
    others = text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%EXPLAIN%' AND pid <> pg_backend_pid()")
    with postgresql.begin() as connection:
        wait_for(lambda: connection.scalar(others) == 0)


def test_the_connection_is_not_observed(probe: Probe, on_slow: OnSlow, sqlite: Engine) -> None:
    """EXPLAIN causes no span, no duration, and no change of the pool metrics."""
    with (
        instrument_database(None, DatabaseSettings(), probe.signals),
        instrument_pool(None, DatabaseSettings(), probe.signals),
    ):
        statement = slow(sqlite)
        spans, before = len(probe.spans()), figures(probe)
        assert before
        on_slow(statement)
        explained(probe)
        assert figures(probe) == before
        assert len(probe.spans()) == spans


def figures(probe: Probe) -> dict[str, float]:
    return {
        f"{sample.name}{sample.labels}": sample.value
        for family in probe.signals.metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("db_client") and not sample.name.endswith("_created")
    }


def test_nothing_is_explained_while_the_pool_is_exhausted(
    probe: Probe, on_slow: OnSlow, tmp_path: Path, new_engine: Callable[..., Engine]
) -> None:
    engine = new_engine(f"sqlite:///{tmp_path / 'people.db'}", pool_size=1, max_overflow=1)
    with engine.begin() as connection:
        fill(connection)
    statement = slow(engine)
    statements = sent(engine)
    with engine.connect(), engine.connect():
        statements.clear()
        on_slow(statement)
        wait_for(lambda: outcomes(probe, "saturated"))
        assert statements == []
    # it does not count as explained, so the next execution is
    on_slow(statement)
    explained(probe)


def test_a_pool_without_a_limit_is_never_saturated(
    probe: Probe, on_slow: OnSlow, sqlite: Engine, new_engine: Callable[..., Engine]
) -> None:
    engine = new_engine(str(sqlite.url), poolclass=NullPool)
    with engine.connect(), engine.connect():
        on_slow(slow(engine))
        explained(probe)


@pytest.mark.parametrize("options", [{}, {"poolclass": StaticPool}])
def test_a_database_in_memory_has_no_second_connection(
    probe: Probe, on_slow: OnSlow, new_engine: Callable[..., Engine], options: dict[str, Any]
) -> None:
    engine = new_engine("sqlite://", **options)
    on_slow(slow(engine, {"text": "SELECT 1", "parameters": ()}))
    wait_for(lambda: outcomes(probe, "unsupported"))
    assert probe.failures == []


# failures


@pytest.mark.parametrize("options", [{}, {"isolation_level": "AUTOCOMMIT"}])
def test_the_database_gives_up_after_the_timeout(
    probe: Probe, postgresql: Engine, new_engine: Callable[..., Engine], options: dict[str, Any]
) -> None:
    """For example a table locked by a migration, for which the planner would wait."""
    engine = new_engine(postgresql.url.render_as_string(hide_password=False), **options)
    statement = slow(engine)
    with explain_slow_queries(ExplainSettings(timeout=0.3), probe.signals) as on_slow, postgresql.begin() as connection:
        connection.execute(text("LOCK TABLE people IN ACCESS EXCLUSIVE MODE"))
        on_slow(statement)
        wait_for(lambda: outcomes(probe, "failed"))
    assert probe.failures == ["explain"]


@pytest.mark.anyio
async def test_the_database_of_an_async_engine_gives_up_after_the_timeout(probe: Probe, postgresql: Engine) -> None:
    url = with_driver(postgresql.url.render_as_string(hide_password=False).replace("+psycopg", ""), "asyncpg")
    engine = create_async_engine(url)
    statement = slow(engine.sync_engine, await filled(engine))
    with explain_slow_queries(ExplainSettings(timeout=0.3), probe.signals) as on_slow, postgresql.begin() as connection:
        connection.execute(text("LOCK TABLE people IN ACCESS EXCLUSIVE MODE"))
        on_slow(statement)
        wait_for(lambda: outcomes(probe, "failed"))


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_dead_server_is_counted(probe: Probe, on_slow: OnSlow, driver: str) -> None:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        url = f"postgresql+{driver}://ada:secret@127.0.0.1:{probe_socket.getsockname()[1]}/people"
    engine = create_engine(url) if driver == "psycopg" else create_async_engine(url).sync_engine
    on_slow(slow(engine, {"text": "SELECT 1", "parameters": ()}))
    wait_for(lambda: outcomes(probe, "failed"))
    assert probe.failures == ["explain"]


def test_the_log_has_no_values(
    probe: Probe, on_slow: OnSlow, postgresql: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    seen = executed(postgresql, "SELECT id FROM people WHERE id = CAST(:email AS VARCHAR)::int", email="1")
    on_slow(slow(postgresql, {**seen, "parameters": {"email": SECRET}}))
    wait_for(lambda: outcomes(probe, "failed"))
    (record,) = [record for record in caplog.records if record.name == "otel_fastperf"]
    assert SECRET not in caplog.text
    assert "InvalidTextRepresentation" in record.getMessage()


def test_statements_that_find_the_queue_full_are_counted(
    probe: Probe, on_slow: OnSlow, tmp_path: Path, new_engine: Callable[..., Engine]
) -> None:
    engine = new_engine(f"sqlite:///{tmp_path / 'people.db'}")
    statement = slow(engine, {"text": "SELECT 1", "parameters": ()})
    connecting, released = threading.Event(), threading.Event()

    @event.listens_for(engine, "do_connect")
    def wait(*_: Any) -> None:
        connecting.set()
        released.wait(DEADLINE)

    on_slow(statement)
    assert connecting.wait(DEADLINE)
    for number in range(20):
        on_slow(slow(engine, {"text": "SELECT 1", "parameters": ()}, fingerprint=str(number)))
    assert outcomes(probe, "queue_full") == 4
    released.set()
    explained(probe, 17)
    # these statements may be explained later
    on_slow(slow(engine, {"text": "SELECT 1", "parameters": ()}, fingerprint="19"))
    explained(probe, 18)


def test_a_statement_of_an_unknown_dialect_is_ignored(threads: Threads, on_slow: OnSlow, sqlite: Engine) -> None:
    statement = slow(sqlite)
    on_slow(
        SlowStatement(
            engine=sqlite,
            text=statement.text,
            parameters=statement.parameters,
            dialect="oracle",
            fingerprint="f",
            summary="",
            seconds=1,
            record=None,
            span=None,
        )
    )
    assert threads() == []


# the thread


def test_the_thread_starts_on_first_use_and_stops_at_the_end(threads: Threads, probe: Probe, sqlite: Engine) -> None:
    with explain_slow_queries(ExplainSettings(), probe.signals) as on_slow:
        assert threads() == []
        on_slow(slow(sqlite))
        explained(probe)
        (thread,) = threads()
        assert thread.daemon
    assert threads() == []
    on_slow(slow(sqlite, fingerprint="later"))
    assert threads() == []


def test_the_thread_sleeps_until_there_is_a_statement(
    threads: Threads, probe: Probe, on_slow: OnSlow, sqlite: Engine
) -> None:
    on_slow(slow(sqlite))
    explained(probe)
    (thread,) = threads()
    before = wait_for(lambda: settled(thread))
    probe.signals.findings.report(slow_query())
    time.sleep(1.2)
    assert wake_ups(thread) == before


def settled(thread: threading.Thread) -> int:
    """The number of its wake-ups once it waits for the next statement; 0 if it does not yet."""
    before = wake_ups(thread)
    time.sleep(0.3)
    return before if wake_ups(thread) == before else 0


def wake_ups(thread: threading.Thread) -> int:
    """Number of times that the thread has waited, as the kernel counts it."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    (count,) = re.findall(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)
    return int(count)


def test_the_end_does_not_wait_for_a_database_that_hangs(
    threads: Threads, probe: Probe, tmp_path: Path, new_engine: Callable[..., Engine]
) -> None:
    engine = new_engine(f"sqlite:///{tmp_path / 'people.db'}")
    connecting, released = threading.Event(), threading.Event()
    with explain_slow_queries(ExplainSettings(), probe.signals) as on_slow:

        @event.listens_for(engine, "do_connect")
        def wait(*_: Any) -> None:
            connecting.set()
            released.wait(DEADLINE)

        on_slow(slow(engine, {"text": "SELECT 1", "parameters": ()}))
        assert connecting.wait(DEADLINE)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    released.set()
    wait_for(lambda: not threads())


FORK = """
import os, sys, time, warnings
from sqlalchemy import create_engine, text
from opentelemetry.sdk.trace import TracerProvider
from otel_fastperf.internals.guard import Guard
from otel_fastperf.instrumentation.explain import explain_slow_queries
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import ExplainSettings
from otel_fastperf.instrumentation.slow_statement import SlowStatement
from tests.conftest import signals_of

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12+: forking with threads
engine = create_engine(sys.argv[1])
metrics = Metrics()
signals = signals_of(TracerProvider().get_tracer("x"), metrics, Guard(print))


def explain(fingerprint):
    on_slow(SlowStatement(engine=engine, text="SELECT 1", parameters=(), dialect="sqlite", fingerprint=fingerprint,
                          summary="SELECT", seconds=1, record=None, span=None))


def explained(times):
    end = time.monotonic() + 20
    while metrics.registry.get_sample_value("fastperf_explain_total", {"outcome": "explained"}) != times:
        assert time.monotonic() < end
        time.sleep(0.01)


with explain_slow_queries(ExplainSettings(), signals) as on_slow:
    explain("parent")
    explained(1)
    child = os.fork()
    if child == 0:
        explain("child")
        explained(1)  # a child counts from zero
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    explain("parent again")
    explained(2)
print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no os.fork")
def test_a_forked_child_has_its_own_thread(sqlite: Engine) -> None:
    command = [sys.executable, "-c", FORK, str(sqlite.url)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], text=True, capture_output=True, check=False, timeout=60
    )
    assert (done.stdout.strip(), done.returncode) == ("both", 0), done.stderr

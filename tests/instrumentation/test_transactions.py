"""COMMIT and ROLLBACK have a CLIENT span, a duration, a segment, and the line that repeats them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from otel_fastperf.instrumentation import transactions
from otel_fastperf.instrumentation.statements import instrument_database
from otel_fastperf.instrumentation.transactions import instrument_transactions
from otel_fastperf.requests.record import CURRENT, RequestRecord
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import DatabaseSettings
from tests.conftest import Probe
from tests.postgresql import with_driver

DURATION = "db_client_operation_duration_seconds"


@pytest.fixture
def observed(probe: Probe) -> Iterator[Probe]:
    with (
        instrument_database(None, DatabaseSettings(), probe.signals),
        instrument_transactions(None, DatabaseSettings(slow_commit=0.05), probe.signals),
    ):
        yield probe


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    with suppress_instrumentation(), engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER)"))
    yield engine
    engine.dispose()


@pytest.fixture
def record(observed: Probe) -> Iterator[RequestRecord]:
    """A request in progress."""
    record = RequestRecord(observed.signals, {"type": "http"}, INVALID_SPAN, time.perf_counter())
    token = CURRENT.set(record)
    yield record
    CURRENT.reset(token)


def slowly(method: str, monkeypatch: pytest.MonkeyPatch, engine: Engine, seconds: float = 0.06) -> None:
    """Have the dialect take its time."""
    original: Callable[[Any], None] = getattr(engine.dialect, method)

    def slow(connection: Any) -> None:
        time.sleep(seconds)
        original(connection)

    monkeypatch.setattr(engine.dialect, method, slow)


def measured(probe: Probe, engine: Engine, operation: str) -> float | None:
    """How many are in the histogram."""
    return probe.value(
        f"{DURATION}_count",
        db_system_name="sqlite",
        db_namespace=engine.url.database or "",
        db_operation_name=operation,
        error_type="",
    )


def names(probe: Probe) -> list[str]:
    return [span.name for span in probe.spans()]


def insert(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO orders VALUES (1)"))


def test_a_commit_is_a_client_span_beside_its_statements(observed: Probe, engine: Engine) -> None:
    insert(engine)
    statement, commit = observed.spans()
    assert (commit.name, commit.kind) == ("COMMIT", SpanKind.CLIENT)
    assert commit.parent == statement.parent
    attributes = dict(commit.attributes or {})
    assert attributes == {
        "db.system.name": "sqlite",
        "db.namespace": engine.url.database,
        "db.operation.name": "COMMIT",
    }
    assert statement.end_time is not None
    assert commit.start_time is not None
    assert commit.start_time >= statement.end_time
    assert measured(observed, engine, "COMMIT") == 1


def test_the_rollback_of_a_session_that_only_read_has_no_span(
    observed: Probe, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "_SHORT", 10.0)
    slowly("do_rollback", monkeypatch, engine, 0.001)
    with Session(engine) as session:
        session.execute(text("SELECT 1"))
    assert names(observed) == ["SELECT"]
    assert measured(observed, engine, "ROLLBACK") == 1


def test_a_rollback_that_takes_time_has_one(observed: Probe, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    slowly("do_rollback", monkeypatch, engine, 0.002)
    with Session(engine) as session:
        session.execute(text("SELECT 1"))
    assert names(observed) == ["SELECT", "ROLLBACK"]


def test_a_commit_that_fails_is_an_error(observed: Probe, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_connection: Any) -> None:
        message = "disk I/O error"
        raise engine.dialect.loaded_dbapi.OperationalError(message)

    with monkeypatch.context() as patch:
        patch.setattr(engine.dialect, "do_commit", fails)
        with pytest.raises(DBAPIError, match="disk I/O error"):
            insert(engine)
    commit = next(span for span in observed.spans() if span.name == "COMMIT")
    assert commit.status.status_code is StatusCode.ERROR
    assert (commit.attributes or {})["error.type"] == "sqlite3.OperationalError"


def test_it_is_an_interval_of_the_request(
    engine: Engine, record: RequestRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly("do_commit", monkeypatch, engine)
    insert(engine)
    (seconds,) = [end - start for start, end, cause in record.intervals if cause == Cause.COMMIT]
    assert seconds >= 0.06
    assert record.db_statements == 1


def test_a_slow_commit_names_its_line(
    observed: Probe, engine: Engine, record: RequestRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly("do_commit", monkeypatch, engine)
    insert(engine)
    ends = record.transaction_ends
    assert ends is not None
    assert (ends.commits, ends.slowest_operation) == (1, "COMMIT")
    assert ends.slowest >= 0.06
    assert ends.slowest_site is not None
    assert ends.slowest_site.function == "insert"
    commit = next(span for span in observed.spans() if span.name == "COMMIT")
    assert (commit.attributes or {})["code.line.number"] == ends.slowest_site.line


def test_a_loop_of_commits_is_counted_at_its_line(
    engine: Engine, record: RequestRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly("do_commit", monkeypatch, engine, 0.001)
    for _ in range(10):
        insert(engine)
    ends = record.transaction_ends
    assert ends is not None
    assert ends.commits == 10
    ((site, (times, seconds)),) = ends.lines.items()
    assert site is not None
    # the first two are looked up if they are slow, as on a busy machine
    assert site.function == "insert"
    assert 8 <= times <= 10
    assert seconds >= 0.008


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_sessions_of_async_drivers_end_transactions_too(
    observed: Probe, postgresql_url: str, driver: str
) -> None:
    """A deferred constraint trigger makes COMMIT slow, as it does in real services."""
    engine = create_async_engine(with_driver(postgresql_url, driver))
    function = (
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END'"
    )
    trigger = (
        "CREATE CONSTRAINT TRIGGER checked AFTER INSERT ON slow_orders DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slowly()"
    )
    async with engine.begin() as connection:
        for statement in ("CREATE TABLE slow_orders (id integer)", function, trigger):
            await connection.execute(text(statement))
    record = RequestRecord(observed.signals, {"type": "http"}, INVALID_SPAN, time.perf_counter())
    token = CURRENT.set(record)
    try:
        async with async_sessionmaker(engine)() as session:
            await session.execute(text("INSERT INTO slow_orders VALUES (1)"))
            await session.commit()
    finally:
        CURRENT.reset(token)
        async with engine.begin() as connection:
            await connection.execute(text("DROP TABLE slow_orders"))
            await connection.execute(text("DROP FUNCTION slowly"))
        await engine.dispose()
    ends = record.transaction_ends
    assert ends is not None
    assert ends.slowest >= 0.1
    assert ends.slowest_site is not None
    assert ends.slowest_site.function.startswith("test_sessions_of_async_drivers")


@pytest.mark.anyio
async def test_a_cancelled_commit_is_passed_on(observed: Probe, tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/other.db")
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        task = asyncio.create_task(connection.commit())
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await engine.dispose()
    assert observed.failures == []


def test_only_the_given_engines_are_observed(probe: Probe, engine: Engine, tmp_path: Path) -> None:
    other = create_engine(f"sqlite:///{tmp_path}/other.db")
    with instrument_transactions([engine], DatabaseSettings(), probe.signals):
        insert(engine)
        with other.begin() as connection:
            connection.execute(text("SELECT 1"))
    other.dispose()
    assert names(probe) == ["COMMIT"]


def test_excluded_requests_and_suppressed_code_are_not_observed(
    observed: Probe, engine: Engine, record: RequestRecord
) -> None:
    record.excluded = True
    insert(engine)
    record.excluded = False
    with suppress_instrumentation():
        insert(engine)
    assert "COMMIT" not in names(observed)


def test_the_methods_are_restored(probe: Probe) -> None:
    before = Connection._commit_impl
    with instrument_transactions(None, DatabaseSettings(), probe.signals):
        assert Connection._commit_impl is not before
    assert Connection._commit_impl is before


def test_no_event_puts_statements_on_the_slower_path(
    probe: Probe, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # once anything in this process has listened to all engines, SQLAlchemy leaves it at True
    monkeypatch.setattr(Engine, "_has_events", False)
    settings = DatabaseSettings()
    with instrument_database(None, settings, probe.signals), instrument_transactions(None, settings, probe.signals):
        insert(engine)
    assert names(probe) == ["INSERT orders", "COMMIT"]
    assert not engine._has_events


def test_a_failure_of_telemetry_fails_no_transaction(
    observed: Probe, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observed.signals.metrics, "db_operation_duration", None)
    insert(engine)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM orders")) == 1
    assert set(observed.failures) == {"database"}


def test_listeners_of_the_application_still_see_it(observed: Probe, engine: Engine) -> None:
    seen: list[str] = []
    event.listen(engine, "commit", lambda _: seen.append("commit"))
    insert(engine)
    assert seen == ["commit"]
    assert names(observed) == ["INSERT orders", "COMMIT"]

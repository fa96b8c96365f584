"""Each SQL statement has one CLIENT span with correct attributes, one duration, and one count on its request."""

import asyncio
import contextvars
import functools
import gc
import inspect
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import sqlalchemy
import sqlalchemy.ext.asyncio
from fastapi import FastAPI
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, StaticSampler
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode
from prometheus_client.openmetrics.exposition import generate_latest
from sqlalchemy import (
    URL,
    Column,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from starlette.testclient import TestClient

from otel_fastperf import setup_telemetry
from otel_fastperf.instrumentation.observed_statement import EngineFacts, database_code
from otel_fastperf.instrumentation.statements import instrument_database
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import CURRENT, RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.signals import Signals
from tests.conftest import Probe, signals_of
from tests.postgresql import with_driver

DURATION = "db_client_operation_duration_seconds"


@pytest.fixture
def observed(probe: Probe) -> Iterator[Probe]:
    """Observe all engines of the process."""
    with instrument_database(None, DatabaseSettings(), probe.signals):
        yield probe


@pytest.fixture
def new_engine() -> Iterator[Callable[[str], Engine]]:
    """Make engines whose connections are closed at the end."""
    with ExitStack() as stack:

        def make(url: str | URL) -> Engine:
            engine = create_engine(url)
            stack.callback(engine.dispose)
            return engine

        yield make


@pytest.fixture
def engine(new_engine: Callable[[str], Engine]) -> Engine:
    return new_engine("sqlite://")


@asynccontextmanager
async def async_engine(url: str | URL) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url)
    try:
        yield engine
    finally:
        await engine.dispose()


def run(engine: Engine, statement: str = "SELECT 1", **parameters: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), parameters)


async def run_async(engine: AsyncEngine, statement: str = "SELECT 1") -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement))


@contextmanager
def request(signals: Signals, *, excluded: bool = False) -> Iterator[RequestRecord]:
    """A request in progress: its record, with its span as the current one."""
    with signals.tracer.start_as_current_span("GET /orders", kind=SpanKind.SERVER) as span:
        record = RequestRecord(signals, {"type": "http"}, span, time.perf_counter())
        record.excluded = excluded
        token = CURRENT.set(record)
        try:
            yield record
        finally:
            CURRENT.reset(token)


def sql(probe: Probe) -> list[ReadableSpan]:
    return [span for span in probe.spans() if span.kind is SpanKind.CLIENT]


def names(probe: Probe) -> list[str]:
    return [span.name for span in sql(probe)]


def parents(probe: Probe) -> list[int | None]:
    return [span.parent.span_id if span.parent else None for span in sql(probe)]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def counted(
    probe: Probe, operation: str, error: str = "", *, system: str = "sqlite", namespace: str = ":memory:"
) -> float:
    labels = {
        "db_system_name": system,
        "db_namespace": namespace,
        "db_operation_name": operation,
        "error_type": error,
    }
    return probe.value(f"{DURATION}_count", **labels) or 0.0


# span and duration of a statement


def test_a_statement_is_one_client_span_with_stable_attributes(observed: Probe, engine: Engine) -> None:
    run(engine, "CREATE TABLE users (name TEXT)")
    run(engine, "SELECT name FROM users WHERE name = 'ada' OR name = :name", name="grace")
    _, span = sql(observed)
    assert span.name == "SELECT users"
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span) == {
        "db.system.name": "sqlite",
        "db.namespace": ":memory:",
        "db.operation.name": "SELECT",
        "db.collection.name": "users",
        "db.query.summary": "SELECT users",
        "db.query.text": "SELECT name FROM users WHERE name = ? OR name = ?",
    }


def test_the_duration_is_measured(observed: Probe, engine: Engine) -> None:
    run(engine)
    run(engine)
    assert counted(observed, "SELECT") == 2


def test_span_and_metric_have_the_same_duration(observed: Probe, engine: Engine) -> None:
    run(engine)
    (span,) = sql(observed)
    assert span.end_time is not None
    assert span.start_time is not None
    labels = {"db_system_name": "sqlite", "db_namespace": ":memory:", "db_operation_name": "SELECT", "error_type": ""}
    seconds = observed.value(f"{DURATION}_sum", **labels)
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(seconds, abs=1e-8)


def test_setting_the_clock_back_causes_no_negative_duration(
    observed: Probe, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(2_000_000_000_000_000_000, 0, -3_600_000_000_000))
    monkeypatch.setattr(time, "time_ns", lambda: next(now))
    run(engine)
    (span,) = sql(observed)
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time >= span.start_time


def test_the_text_can_be_disabled(probe: Probe, engine: Engine) -> None:
    with instrument_database(None, DatabaseSettings(query_text=False), probe.signals):
        run(engine)
    (span,) = sql(probe)
    assert "db.query.text" not in attributes(span)
    assert attributes(span)["db.query.summary"] == "SELECT"


def test_the_text_is_bounded(probe: Probe, engine: Engine) -> None:
    with instrument_database(None, DatabaseSettings(query_text_length=64), probe.signals):
        run(engine, "SELECT " + ", ".join(f"1 AS column_{number}" for number in range(100)))
    assert len(attributes(sql(probe)[0])["db.query.text"]) == 64


def test_the_sampler_sees_the_attributes(probe: Probe, engine: Engine) -> None:
    seen: list[dict[str, Any]] = []

    class Sampler(StaticSampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(inspect.signature(super().should_sample).bind(*args, **kwargs).arguments["attributes"])
            return super().should_sample(*args, **kwargs)

    tracer = TracerProvider(sampler=Sampler(Decision.RECORD_AND_SAMPLE)).get_tracer("test")
    with instrument_database(None, DatabaseSettings(), signals_of(tracer, probe.signals.metrics, probe.signals.guard)):
        run(engine)
    assert seen[0]["db.query.summary"] == "SELECT"
    assert seen[0]["db.query.text"] == "SELECT ?"


def test_comments_of_another_listener_are_not_in_the_text(observed: Probe, engine: Engine) -> None:
    """Sqlcommenter adds a trace id to each statement: a cache keyed by the text would never hit."""

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def comment(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: Any) -> Any:
        return f"{statement} -- traceparent={time.time_ns()}", parameters

    run(engine)
    assert attributes(sql(observed)[0])["db.query.text"] == "SELECT ?"


def test_a_statement_without_a_known_verb_is_named_after_its_database(observed: Probe, engine: Engine) -> None:
    with suppress(OperationalError):
        run(engine, "FROBNICATE everything")
    (span,) = sql(observed)
    assert span.name == ":memory:"
    assert "db.query.summary" not in attributes(span)


@pytest.mark.parametrize(
    ("url", "system", "others"),
    [
        ("mssql://h/shop", "microsoft.sql_server", {"server.address": "h", "db.namespace": "shop"}),
        ("oracle://h:1521", "oracle.db", {"server.address": "h", "server.port": 1521}),
        ("mysql://user:secret@h/shop", "mysql", {"server.address": "h", "db.namespace": "shop"}),
        ("mariadb:///shop", "mariadb", {"db.namespace": "shop"}),
        ("postgresql://?host=/run/db", "postgresql", {"server.address": "/run/db"}),
        ("postgresql:///shop?host=a:5432&host=b", "postgresql", {"server.address": "a:5432,b", "db.namespace": "shop"}),
    ],
)
def test_system_names_follow_the_conventions(url: str, system: str, others: dict[str, Any]) -> None:
    parsed = make_url(url)
    assert EngineFacts(parsed.get_dialect()(), parsed).attributes == {"db.system.name": system, **others}


def test_a_mysql_url_of_a_mariadb_server_has_the_system_mariadb() -> None:
    dialect: Any = make_url("mysql://").get_dialect()
    assert EngineFacts(dialect(is_mariadb=True), make_url("mysql://")).system == "mariadb"


# which engines


def test_engines_made_before_and_after_are_observed(probe: Probe, new_engine: Callable[[str], Engine]) -> None:
    before = new_engine("sqlite://")
    with instrument_database(None, DatabaseSettings(), probe.signals):
        run(before)
        run(new_engine("sqlite://"))
    assert names(probe) == ["SELECT", "SELECT"]


@pytest.mark.anyio
async def test_async_engines_made_before_and_after_are_observed(probe: Probe) -> None:
    async with async_engine("sqlite+aiosqlite://") as before:
        with instrument_database(None, DatabaseSettings(), probe.signals):
            await run_async(before)
            async with async_engine("sqlite+aiosqlite://") as after:
                await run_async(after)
    assert names(probe) == ["SELECT", "SELECT"]


@pytest.mark.anyio
async def test_only_the_given_engines_are_observed(probe: Probe, new_engine: Callable[[str], Engine]) -> None:
    ours, other = new_engine("sqlite://"), new_engine("sqlite://")
    url = "sqlite+aiosqlite://"
    async with async_engine(url) as our_async, async_engine(url) as other_async:
        with instrument_database([ours, our_async], DatabaseSettings(), probe.signals):
            run(ours)
            await run_async(our_async)
            run(other, "PRAGMA user_version")
            await run_async(other_async, "PRAGMA user_version")
    assert names(probe) == ["SELECT", "SELECT"]


@pytest.mark.parametrize("given", [True, False])
def test_a_copy_by_execution_options_counts_as_its_engine(probe: Probe, engine: Engine, *, given: bool) -> None:
    with instrument_database([engine] if given else None, DatabaseSettings(), probe.signals):
        run(engine.execution_options(logging_token="reports"))
    assert names(probe) == ["SELECT"]


def test_nothing_is_observed_after_the_end(probe: Probe, engine: Engine) -> None:
    with instrument_database(None, DatabaseSettings(), probe.signals):
        run(engine)
    run(engine)
    with suppress(DBAPIError):
        run(engine, "SELECT nonsense")
    assert names(probe) == ["SELECT"]


def test_listeners_are_shared_and_stay_for_the_next(probe: Probe, engine: Engine) -> None:
    """To remove one while a statement runs in another thread would make that fail: SQLAlchemy takes no lock."""

    def listeners() -> list[int]:
        dispatch = engine.dialect.dispatch
        events = (dispatch.do_execute, dispatch.do_executemany, dispatch.do_execute_no_params, dispatch.handle_error)
        return [len(each) for each in events]

    with instrument_database(None, DatabaseSettings(), probe.signals):
        before = listeners()
        with instrument_database(None, DatabaseSettings(), second(probe)):
            assert listeners() == before
    assert listeners() == before
    with instrument_database(None, DatabaseSettings(), probe.signals):
        assert listeners() == before


def test_a_deleted_engine_is_not_kept_alive(observed: Probe) -> None:
    engine = create_engine("sqlite://")
    run(engine)
    engine.dispose()
    gone = threading.Event()
    weakref.finalize(engine.dialect, gone.set)
    del engine
    gc.collect()
    assert gone.is_set()


# the request of a statement


def test_a_statement_is_a_child_of_the_current_span(observed: Probe, engine: Engine) -> None:
    with request(observed.signals) as record:
        run(engine)
    assert parents(observed) == [record.span.get_span_context().span_id]


def test_a_statement_outside_of_any_span_is_a_root(observed: Probe, engine: Engine) -> None:
    run(engine)
    assert parents(observed) == [None]


def test_the_request_record_has_number_and_duration_of_its_statements(observed: Probe, engine: Engine) -> None:
    with request(observed.signals) as record:
        run(engine)
        with suppress(DBAPIError):
            run(engine, "SELECT nonsense")
    assert record.db_statements == 2
    assert record.db_seconds > 0


@pytest.mark.anyio
async def test_gathered_statements_of_an_async_engine_belong_to_their_request(observed: Probe, tmp_path: Path) -> None:
    async with async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db") as engine:
        with request(observed.signals) as record:
            await asyncio.gather(*(run_async(engine) for _ in range(5)))
    assert record.db_statements == 5
    assert parents(observed) == [record.span.get_span_context().span_id] * 5


@pytest.mark.anyio
async def test_statements_in_worker_threads_belong_to_their_request(
    observed: Probe, new_engine: Callable[[str], Engine], tmp_path: Path
) -> None:
    engine = new_engine(f"sqlite:///{tmp_path}/shop.db")
    with request(observed.signals) as record:
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(anyio.to_thread.run_sync, functools.partial(run, engine))
    assert record.db_statements == 8
    assert parents(observed) == [record.span.get_span_context().span_id] * 8


def test_statements_in_a_thread_without_context_are_roots(
    observed: Probe, new_engine: Callable[[str], Engine], tmp_path: Path
) -> None:
    engine = new_engine(f"sqlite:///{tmp_path}/shop.db")
    with request(observed.signals) as record:
        # an empty context on purpose: threads of newer Python versions may start with a copy
        thread = threading.Thread(target=contextvars.Context().run, args=(run, engine))
        thread.start()
        thread.join()
    assert record.db_statements == 0
    assert parents(observed) == [None]


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    orders: Mapped[list["Order"]] = relationship()


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))


def test_lazy_loads_of_the_orm_are_statements(observed: Probe, engine: Engine) -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(User(orders=[Order()]) for _ in range(3))
        session.commit()
    observed.exporter.clear()
    with request(observed.signals) as record, Session(engine) as session:
        assert [len(user.orders) for user in session.scalars(select(User))] == [1, 1, 1]
    assert names(observed) == ["SELECT users"] + ["SELECT orders"] * 3
    assert record.db_statements == 4


def test_statements_of_an_excluded_request_are_not_observed(observed: Probe, engine: Engine) -> None:
    with request(observed.signals, excluded=True) as record:
        run(engine)
    assert names(observed) == []
    assert counted(observed, "SELECT") == 0
    assert record.db_statements == 0


def test_statements_under_suppressed_instrumentation_are_not_observed(observed: Probe, engine: Engine) -> None:
    with suppress_instrumentation():
        run(engine)
    assert names(observed) == []
    assert counted(observed, "SELECT") == 0


def second(probe: Probe) -> Signals:
    """Another telemetry in the same process, with the same exporter and the same list of failures."""
    return signals_of(probe.signals.tracer, Metrics(), probe.signals.guard)


@pytest.mark.parametrize("serves", ["the first", "the second"])
def test_the_telemetry_that_serves_the_request_observes_its_statements(
    observed: Probe, engine: Engine, serves: str
) -> None:
    other = second(observed)
    serving = observed.signals if serves == "the first" else other
    with instrument_database(None, DatabaseSettings(), other), request(serving) as record:
        run(engine)
    assert names(observed) == ["SELECT"]
    assert record.db_statements == 1
    labels = {"db_system_name": "sqlite", "db_namespace": ":memory:", "db_operation_name": "SELECT", "error_type": ""}
    for signals in (observed.signals, other):
        count = signals.metrics.registry.get_sample_value(f"{DURATION}_count", labels)
        assert count == (1 if signals is serving else None)


def test_outside_of_requests_only_the_newest_of_two_telemetries_observes(observed: Probe, engine: Engine) -> None:
    with instrument_database(None, DatabaseSettings(), second(observed)):
        run(engine)
        with suppress(DBAPIError):
            run(engine, "SELECT nonsense")
    assert names(observed) == ["SELECT", "SELECT"]
    assert counted(observed, "SELECT") == 0
    run(engine)
    assert counted(observed, "SELECT") == 1


# several executions


def test_executemany_is_one_batch(observed: Probe, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
        connection.execute(text("INSERT INTO t VALUES (:a)"), [{"a": 1}, {"a": 2}, {"a": 3}])
    span = sql(observed)[1]
    assert span.name == "BATCH INSERT t"
    assert attributes(span)["db.operation.name"] == "BATCH INSERT"
    assert attributes(span)["db.operation.batch.size"] == 3
    assert counted(observed, "BATCH INSERT") == 1


def test_executemany_is_one_of_the_request_s_statements_however_quick(observed: Probe, engine: Engine) -> None:
    """Which rows it has locked tells for what another request waits."""
    with request(observed.signals) as record, engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
        connection.execute(text("INSERT INTO t VALUES (:a)"), [{"a": 1}])
        for _ in range(2):
            connection.execute(text("INSERT INTO t VALUES (:a)"), [{"a": 1}, {"a": 2}])
    counts = [(group.query.text, group.count) for group in record.statements.values()]
    assert counts[1:] == [("INSERT INTO t VALUES (?)", 1), ("INSERT INTO t VALUES (?)", 2)]


def test_executemany_with_one_parameter_set_is_not_a_batch(observed: Probe, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
        connection.execute(text("INSERT INTO t VALUES (:a)"), [{"a": 1}])
    span = sql(observed)[1]
    assert span.name == "INSERT t"
    assert "db.operation.batch.size" not in attributes(span)


def test_each_batch_of_insertmanyvalues_is_one_insert_with_the_same_text(observed: Probe, engine: Engine) -> None:
    table = Table("t", MetaData(), Column("id", Integer, primary_key=True), Column("a", String))
    table.create(engine)
    observed.exporter.clear()
    with engine.connect().execution_options(insertmanyvalues_page_size=2) as connection:
        connection.execute(insert(table).returning(table.c.id), [{"a": str(number)} for number in range(5)])
    assert names(observed) == ["INSERT t"] * 3
    assert len({attributes(span)["db.query.text"] for span in sql(observed)}) == 1
    assert all("db.operation.batch.size" not in attributes(span) for span in sql(observed))


def test_the_query_of_a_column_default_is_a_separate_statement(observed: Probe, engine: Engine) -> None:
    counter = Table("counter", MetaData(), Column("next", Integer))
    table = Table(
        "t",
        MetaData(),
        Column("id", Integer, primary_key=True, default=select(func.max(counter.c.next)).scalar_subquery()),
        Column("a", String),
        implicit_returning=False,
    )
    counter.create(engine)
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(insert(counter).values(next=7))
        observed.exporter.clear()
        connection.execute(insert(table).values(a="x"))
    assert [attributes(span)["db.operation.name"] for span in sql(observed)] == ["SELECT", "INSERT"]
    assert counted(observed, "INSERT") == 2


# failures


def test_a_failed_statement_has_the_code_of_the_database(observed: Probe, engine: Engine) -> None:
    run(engine, "CREATE TABLE users (email TEXT UNIQUE)")
    run(engine, "INSERT INTO users VALUES (:email)", email="ada@example.com")
    with pytest.raises(IntegrityError):
        run(engine, "INSERT INTO users VALUES (:email)", email="ada@example.com")
    span = sql(observed)[-1]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "(sqlite3.IntegrityError) UNIQUE constraint failed: users.email"
    assert attributes(span)["error.type"] == "SQLITE_CONSTRAINT_UNIQUE"
    assert attributes(span)["db.response.status_code"] == "SQLITE_CONSTRAINT_UNIQUE"
    assert counted(observed, "INSERT", "SQLITE_CONSTRAINT_UNIQUE") == 1
    assert counted(observed, "INSERT") == 1


def test_a_failure_without_a_code_has_the_type_of_the_exception(observed: Probe, engine: Engine) -> None:
    with pytest.raises(DBAPIError), engine.connect() as connection:
        connection.exec_driver_sql("SELECT ?", (object(),))
    span = sql(observed)[-1]
    assert attributes(span)["error.type"].endswith("ProgrammingError")
    assert "db.response.status_code" not in attributes(span)


def test_the_span_of_a_failed_statement_has_no_values(observed: Probe, engine: Engine) -> None:
    run(engine, "CREATE TABLE users (email TEXT UNIQUE)")
    for _ in range(2):
        with suppress(IntegrityError):
            run(engine, "INSERT INTO users VALUES (:email)", email="ada@example.com")
    assert len(sql(observed)) == 3
    for span in sql(observed):
        assert "ada@example.com" not in span.to_json()
        assert not span.events


def test_a_value_in_the_message_of_a_database_function_is_not_on_the_span(observed: Probe, engine: Engine) -> None:
    """A trigger or a function in the database may put it there."""

    @event.listens_for(engine, "do_execute")
    def refuse(_cursor: Any, _statement: str, parameters: Any, _context: Any) -> None:
        message = f"no user {parameters[0]} here"
        raise sqlite3.IntegrityError(message)

    with pytest.raises(IntegrityError):
        run(engine, "SELECT :email", email="ada@example.com")
    assert sql(observed)[-1].status.description == "(sqlite3.IntegrityError) no user ? here"


def test_a_failure_to_connect_is_not_a_statement(observed: Probe, new_engine: Callable[[str], Engine]) -> None:
    engine = new_engine("sqlite:////nowhere/at/all.db")
    with pytest.raises(OperationalError):
        run(engine)
    assert names(observed) == []
    assert observed.failures == []


def test_an_error_after_the_statement_does_not_count_it_twice(observed: Probe, engine: Engine) -> None:
    @event.listens_for(engine, "after_cursor_execute")
    def fail(*_args: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(engine)
    assert names(observed) == ["SELECT"]
    assert counted(observed, "SELECT") == 1


@pytest.mark.parametrize(
    ("error", "system", "code"),
    [
        (Exception(1062, "Duplicate entry 'ada' for key 'email'"), "mysql", "1062"),
        (Exception(1062, "Duplicate entry 'ada' for key 'email'"), "mariadb", "1062"),
        (Exception("Lost connection"), "mysql", ""),
        (Exception(), "mysql", ""),
        (ConnectionResetError(104, "Connection reset by peer"), "postgresql", ""),
        (sqlite3.OperationalError("made without a code"), "sqlite", ""),
    ],
)
def test_the_code_is_found_in_the_errors_of_all_drivers(error: Exception, system: str, code: str) -> None:
    assert database_code(error, system) == code


class Slow:
    """A statement of SQLite that runs until it is released."""

    sql = "SELECT wait_for_test()"

    def __init__(self) -> None:
        self.running = threading.Event()
        self.let_go = threading.Event()

    def add_to(self, engine: AsyncEngine) -> None:
        @event.listens_for(engine.sync_engine, "connect")
        def add(connection: Any, _record: Any) -> None:
            connection.create_function("wait_for_test", 0, self._wait)

    def _wait(self) -> int:
        self.running.set()
        self.let_go.wait(30)
        return 1


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_cancelled_statement_is_observed_as_failed(observed: Probe, how: str) -> None:
    slow = Slow()
    async with async_engine("sqlite+aiosqlite://") as engine:
        slow.add_to(engine)
        with request(observed.signals) as record:
            task = asyncio.create_task(run_async(engine, slow.sql))
            assert await asyncio.to_thread(slow.running.wait, 30)
            # SQLAlchemy closes the connection next, which waits for the statement that runs on it
            asyncio.get_running_loop().call_later(0.1, slow.let_go.set)
            if how == "cancelled":
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(task, 0.001)
    (span,) = sql(observed)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"].endswith("CancelledError")
    assert record.db_statements == 1


# with opentelemetry-instrumentation-sqlalchemy


@contextmanager
def contrib(probe: Probe, **how: Any) -> Iterator[None]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(probe.exporter))
    instrumentor = SQLAlchemyInstrumentor()
    # without this it refuses SQLAlchemy 2.1
    instrumentor.instrument(tracer_provider=provider, skip_dep_check=True, **how)
    try:
        yield
    finally:
        instrumentor.uninstrument()


def joined(probe: Probe) -> ReadableSpan:
    """The only span of the only statement: contrib's, with our attributes."""
    (span,) = [span for span in sql(probe) if span.name != "connect"]
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "opentelemetry.instrumentation.sqlalchemy"
    assert attributes(span)["db.query.summary"] == "SELECT"
    assert attributes(span)["db.system.name"] == "sqlite"
    return span


@pytest.mark.parametrize("first", ["contrib", "ours"])
def test_contrib_s_span_is_joined_on_an_engine_that_it_instruments(probe: Probe, engine: Engine, first: str) -> None:
    ours = instrument_database(None, DatabaseSettings(), probe.signals)
    theirs = contrib(probe, engine=engine)
    with theirs if first == "contrib" else ours, ours if first == "contrib" else theirs:
        run(engine)
    joined(probe)
    assert counted(probe, "SELECT") == 1


@pytest.mark.anyio
@pytest.mark.parametrize("first", ["contrib", "ours"])
async def test_contrib_s_global_instrumentation_is_joined(probe: Probe, first: str) -> None:
    ours, theirs = instrument_database(None, DatabaseSettings(), probe.signals), contrib(probe)
    with theirs if first == "contrib" else ours, ours if first == "contrib" else theirs:
        sync = sqlalchemy.create_engine("sqlite://")
        run(sync)
        sync.dispose()
        joined(probe)
        probe.exporter.clear()
        # not by the name imported in this module, which contrib has not patched
        engine = sqlalchemy.ext.asyncio.create_async_engine("sqlite+aiosqlite://")
        await run_async(engine)
        await engine.dispose()
        joined(probe)


def test_contrib_s_span_of_a_failed_statement_is_joined(observed: Probe, engine: Engine) -> None:
    with contrib(observed, engine=engine), pytest.raises(OperationalError):
        run(engine, "SELECT nonsense")
    span = joined(observed)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "SQLITE_ERROR"
    assert counted(observed, "SELECT", "SQLITE_ERROR") == 1


# the line that blocks the event loop


def test_each_request_knows_the_line_that_blocked_the_loop_though_it_is_looked_up_few_times_a_second(
    observed: Probe, engine: Engine
) -> None:
    started, groups = time.monotonic(), list[StatementGroup]()
    for _ in range(300):
        with request(observed.signals) as record:
            run(engine)
            groups += record.statements.values()
    seconds = int(time.monotonic()) - int(started) + 1
    (line,) = {group.call_site for group in groups}
    assert line is not None
    assert line.function == "run"
    assert all(group.loop_count == 1 for group in groups)
    named = [span for span in sql(observed) if "code.line.number" in attributes(span)]
    assert 50 <= len(named) <= 50 * seconds


# exemplars


def exposed(probe: Probe) -> str:
    page: bytes = generate_latest(probe.signals.metrics.registry)  # type: ignore[no-untyped-call]
    return page.decode()


def test_the_duration_carries_the_ids_of_its_span(observed: Probe, engine: Engine) -> None:
    run(engine)
    context = sql(observed)[0].get_span_context()
    assert context is not None
    assert f'{{span_id="{context.span_id:016x}",trace_id="{context.trace_id:032x}"}}' in exposed(observed)


def test_only_few_of_many_fast_statements_become_exemplars(observed: Probe, engine: Engine) -> None:
    for _ in range(50):
        run(engine)
    page = exposed(observed)
    named = [span for span in sql(observed) if format(span.context.span_id, "016x") in page]
    assert 1 <= len(named) < 10


def test_exemplars_can_be_disabled(probe: Probe, engine: Engine) -> None:
    with instrument_database(None, DatabaseSettings(), probe.signals, exemplars=False):
        run(engine)
    assert "trace_id" not in exposed(probe)
    assert counted(probe, "SELECT") == 1


def test_an_unsampled_span_is_not_an_exemplar(probe: Probe, engine: Engine) -> None:
    tracer = TracerProvider(sampler=ALWAYS_OFF).get_tracer("test")
    with instrument_database(None, DatabaseSettings(), signals_of(tracer, probe.signals.metrics, probe.signals.guard)):
        run(engine)
    assert "trace_id" not in exposed(probe)
    assert counted(probe, "SELECT") == 1


# failures of telemetry


class Broken(SpanProcessor):
    def on_start(self, span: Span, parent_context: Any = None) -> None:
        raise ZeroDivisionError


def test_a_failing_span_processor_loses_only_the_span(engine: Engine) -> None:
    failures: list[str] = []
    provider = TracerProvider()
    provider.add_span_processor(Broken())
    signals = signals_of(provider.get_tracer("test"), Metrics(), Guard(failures.append))
    with instrument_database(None, DatabaseSettings(), signals), request_without_span(signals) as record:
        run(engine)
    assert failures == ["database"]
    assert record.db_statements == 1
    labels = {"db_system_name": "sqlite", "db_namespace": ":memory:", "db_operation_name": "SELECT", "error_type": ""}
    assert signals.metrics.registry.get_sample_value(f"{DURATION}_count", labels) == 1


@contextmanager
def request_without_span(signals: Signals) -> Iterator[RequestRecord]:
    record = RequestRecord(signals, {"type": "http"}, INVALID_SPAN, time.perf_counter())
    token = CURRENT.set(record)
    yield record
    CURRENT.reset(token)


def test_failing_metrics_do_not_fail_the_statement(probe: Probe, engine: Engine) -> None:
    class NoMetrics(Metrics):
        def declared(self, name: str) -> Any:
            raise ZeroDivisionError

    failures: list[str] = []
    signals = signals_of(probe.signals.tracer, NoMetrics(), Guard(failures.append))
    with instrument_database(None, DatabaseSettings(), signals):
        run(engine)
        with pytest.raises(OperationalError):
            run(engine, "SELECT nonsense")
    assert failures == ["database", "database"]


# PostgreSQL


@pytest.fixture
def namespace(postgresql_url: str) -> str:
    return make_url(postgresql_url).database or ""


def secret(url: str, driver: str) -> URL:
    """The URL with a password; a server that trusts its clients ignores it."""
    parsed = make_url(with_driver(url, driver))
    return parsed if parsed.password else parsed.set(password="swordfish")


@contextmanager
def table_of(url: str) -> Iterator[str]:
    """The name of a new table for this test, dropped at the end."""
    name = f"fastperf_{time.time_ns()}"
    engine = create_engine(with_driver(url, "psycopg"))
    run(engine, f"CREATE TABLE {name} (id SERIAL PRIMARY KEY, email TEXT UNIQUE)")
    try:
        yield name
    finally:
        run(engine, f"DROP TABLE {name}")
        engine.dispose()


Driven = Callable[[Sequence[tuple[str, dict[str, Any]]]], None]


@pytest.fixture(params=["psycopg", "asyncpg", "psycopg async"])
def driven(request: pytest.FixtureRequest, postgresql_url: str) -> Driven:
    """Run statements one after the other through one of PostgreSQL's drivers; database errors are expected."""
    driver, _, mode = request.param.partition(" ")
    url = secret(postgresql_url, driver)

    def sync(statements: Sequence[tuple[str, dict[str, Any]]]) -> None:
        engine = create_engine(url)
        for statement, parameters in statements:
            with suppress(DBAPIError):
                run(engine, statement, **parameters)
        engine.dispose()

    async def asynchronous(statements: Sequence[tuple[str, dict[str, Any]]]) -> None:
        async with async_engine(url) as engine:
            for statement, parameters in statements:
                with suppress(DBAPIError):
                    async with engine.begin() as connection:
                        await connection.execute(text(statement), parameters)

    if driver == "psycopg" and not mode:
        return sync
    return lambda statements: asyncio.run(asynchronous(statements))


def test_statements_on_postgresql_have_server_and_namespace(
    probe: Probe, driven: Driven, postgresql_url: str, namespace: str
) -> None:
    with instrument_database(None, DatabaseSettings(), probe.signals):
        driven([("SELECT CAST(:n AS INTEGER) + 41", {"n": 1})])
    (span,) = sql(probe)
    url = make_url(postgresql_url)
    assert attributes(span)["db.system.name"] == "postgresql"
    assert attributes(span)["db.namespace"] == namespace
    assert attributes(span)["server.address"] == url.host
    assert attributes(span).get("server.port") == url.port
    assert "swordfish" not in span.to_json()
    assert str(url.username) not in span.to_json().replace(namespace, "").replace("postgresql", "")
    assert counted(probe, "SELECT", system="postgresql", namespace=namespace) == 1


def test_a_failure_on_postgresql_has_the_sqlstate_and_no_values(
    probe: Probe, driven: Driven, postgresql_url: str, namespace: str
) -> None:
    """The DETAIL of PostgreSQL's message contains the value."""
    with table_of(postgresql_url) as table, instrument_database(None, DatabaseSettings(), probe.signals):
        statement = (f"INSERT INTO {table} (email) VALUES (:email)", {"email": "ada@example.com"})
        driven([statement, statement])
        span = sql(probe)[-1]
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "23505"
    assert attributes(span)["db.response.status_code"] == "23505"
    assert "duplicate key value violates unique constraint" in (span.status.description or "")
    assert "ada@example.com" not in span.to_json()
    assert counted(probe, "INSERT", "23505", system="postgresql", namespace=namespace) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_statement_cancelled_on_postgresql_is_observed_as_failed(
    observed: Probe, postgresql_url: str, driver: str
) -> None:
    async with async_engine(with_driver(postgresql_url, driver)) as engine:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await run_async(engine, "SELECT pg_sleep(60)")
    (span,) = sql(observed)
    assert attributes(span)["error.type"].endswith("CancelledError")


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_server_side_cursor_is_one_statement(observed: Probe, postgresql_url: str, driver: str) -> None:
    query, options = text("SELECT * FROM generate_series(1, 1000)"), {"yield_per": 100}
    async with async_engine(with_driver(postgresql_url, driver)) as engine, engine.connect() as connection:
        rows = await connection.stream(query, execution_options=options)
        assert len([row async for row in rows]) == 1000
    (span,) = sql(observed)
    assert attributes(span)["db.operation.name"] == "SELECT"


def test_reading_a_sequence_of_postgresql_is_a_statement(
    observed: Probe, postgresql_url: str, new_engine: Callable[[str], Engine]
) -> None:
    sequence = sqlalchemy.Sequence(f"fastperf_{time.time_ns()}")
    with new_engine(with_driver(postgresql_url, "psycopg")).begin() as connection:
        sequence.create(connection)
        observed.exporter.clear()
        assert connection.scalar(sequence) == 1
        assert names(observed) == ["SELECT"]
        sequence.drop(connection)


@pytest.mark.anyio
async def test_two_drivers_on_one_loop_are_both_observed(observed: Probe, postgresql_url: str) -> None:
    asyncpg, psycopg = (async_engine(with_driver(postgresql_url, driver)) for driver in ("asyncpg", "psycopg"))
    async with asyncpg as first, psycopg as second:
        with request(observed.signals) as record:
            await asyncio.gather(*(run_async(engine) for engine in (first, second) * 4))
    assert record.db_statements == 8
    assert parents(observed) == [record.span.get_span_context().span_id] * 8


@pytest.mark.parametrize("first", [True, False])
def test_another_listener_that_runs_statements_still_does(probe: Probe, engine: Engine, *, first: bool) -> None:
    """SQLAlchemy stops at the first `do_execute` listener that returns True, and ours does."""
    ran: list[str] = []

    def run(cursor: Any, text: str, parameters: Any, _execution: Any) -> bool:
        ran.append(text)
        cursor.execute(text, parameters)
        return True

    with ExitStack() as exits:
        if first:
            event.listen(engine, "do_execute", run, insert=True)
        exits.enter_context(instrument_database(None, DatabaseSettings(), probe.signals))
        if not first:
            event.listen(engine, "do_execute", run)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT 41 + 1")).scalar() == 42
    assert ran == ["SELECT 41 + 1"]
    assert [span.attributes["db.query.text"] for span in probe.spans() if span.attributes] == ["SELECT ? + ?"]


def test_telemetry_that_is_derived_later_keeps_no_cursor(tmp_path: Path) -> None:
    """SQLite refuses to commit while a cursor whose rows were not read is alive."""
    app = FastAPI()
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    cursors: list[weakref.ref[Any]] = []

    @app.get("/")
    async def read() -> int:
        with engine.connect() as connection:
            result = connection.execute(text("SELECT 1 UNION SELECT 2"))
            cursors.append(weakref.ref(result.context))
            row = result.fetchone()
            del result
            connection.commit()
        gc.disable()
        return int(row[0]) if row else 0

    try:
        with setup_telemetry(app) as telemetry, TestClient(app) as client:
            assert client.get("/").json() == 1
            assert cursors[0]() is None
            assert [span.kind for span in telemetry.spans()][-2:] == [SpanKind.CLIENT, SpanKind.SERVER]
    finally:
        gc.enable()
        engine.dispose()

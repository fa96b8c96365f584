"""Statements of a request: repeats, lines, slow statements, blocks of the event loop, and the resulting findings."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from opentelemetry.trace import SpanKind
from sqlalchemy import Engine, create_engine, delete, event, func, insert, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, joinedload, selectinload, subqueryload

from otel_fastperf.detectors.n_plus_one import detect_n_plus_one
from otel_fastperf.detectors.slow_query import detect_slow_query
from otel_fastperf.detectors.sync_db_on_loop import detect_sync_db_on_loop
from otel_fastperf.findings import CallSite, Finding
from otel_fastperf.instrumentation.slow_statement import SlowStatement
from otel_fastperf.instrumentation.statements import instrument_database
from otel_fastperf.requests.record import CURRENT, MOST_STATEMENTS, RequestRecord, StatementGroup
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.signals import Block
from tests.conftest import Probe
from tests.models import ROWS, Customer, Item, Order, fill
from tests.postgresql import with_driver

#: no minimum time, because SQLite in a test repeats a statement in microseconds
SETTINGS = DatabaseSettings(n_plus_one_seconds=0, slow_query=0.2, sync_on_loop=0)


@pytest.fixture
def observed(probe: Probe) -> Iterator[Probe]:
    with instrument_database(None, SETTINGS, probe.signals):
        yield probe
    assert probe.failures == []


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    with engine.begin() as connection:
        fill(connection)
    yield engine
    engine.dispose()


@asynccontextmanager
async def async_engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(fill)
    try:
        yield engine
    finally:
        await engine.dispose()


@contextmanager
def request(probe: Probe, kind: str = "http") -> Iterator[RequestRecord]:
    """A request that is in progress inside the `with` statement and has ended after it."""
    with probe.signals.tracer.start_as_current_span("GET /orders", kind=SpanKind.SERVER) as span:
        record = RequestRecord(probe.signals, {"type": kind}, span, time.perf_counter())
        token = CURRENT.set(record)
        try:
            yield record
        finally:
            CURRENT.reset(token)
            record.ended = time.perf_counter()


def n_plus_one(record: RequestRecord) -> list[Finding]:
    return list(detect_n_plus_one(record, SETTINGS))


def line_of(site: CallSite | None) -> str:
    """The text of the line, without indentation."""
    assert site is not None
    assert site.file == __file__
    return Path(site.file).read_text().splitlines()[site.line - 1].strip()


def group_of(record: RequestRecord, summary: str) -> StatementGroup:
    (group,) = (group for group in record.statements.values() if group.query.summary == summary)
    return group


def found_by(probe: Probe, engine: Engine, work: Callable[[Session], Any]) -> list[Finding]:
    """The `n_plus_one` findings of a request that runs `work` in a session, in a thread like a `def` endpoint."""

    def endpoint() -> None:
        with Session(engine) as session:
            work(session)

    with request(probe) as record:
        record.loop_thread = -1
        endpoint()
    return n_plus_one(record)


# n_plus_one


def test_lazy_loads_are_reported_with_relationship_and_line(observed: Probe, engine: Engine) -> None:
    def work(session: Session) -> None:
        for order in session.scalars(select(Order)):
            len(order.items)

    (finding,) = found_by(observed, engine, work)
    assert finding.subject == "Order.items"
    assert finding.evidence["repeats"] == ROWS
    assert "selectinload(Order.items)" in finding.remedy
    assert line_of(finding.call_site) == "len(order.items)"


def test_the_remedy_for_lazy_loads_of_single_instances_is_a_join(observed: Probe, engine: Engine) -> None:
    (finding,) = found_by(observed, engine, lambda session: [order.note for order in session.scalars(select(Order))])
    assert "joinedload(Order.note)" in finding.remedy


def test_statements_in_a_loop_are_reported(observed: Probe, engine: Engine) -> None:
    def work(session: Session) -> None:
        for number in range(1, ROWS + 1):
            session.get(Item, number)

    (finding,) = found_by(observed, engine, work)
    assert finding.subject == "SELECT fastperf_items"
    assert "WHERE fastperf_items.id IN (…)" in finding.remedy
    assert line_of(finding.call_site) == "session.get(Item, number)"


def test_updates_in_a_loop_are_reported(observed: Probe, engine: Engine) -> None:
    def work(session: Session) -> None:
        for number in range(1, ROWS + 1):
            session.connection().execute(update(Item).where(Item.id == number).values(name="ink"))

    (finding,) = found_by(observed, engine, work)
    assert finding.subject == "UPDATE fastperf_items"


def test_only_one_span_of_the_repeats_has_the_line(observed: Probe, engine: Engine) -> None:
    found_by(observed, engine, lambda session: [session.get(Item, number) for number in range(1, ROWS + 1)])
    lines = [(span.attributes or {}).get("code.function.name") for span in observed.spans()]
    assert [line for line in lines if line] == ["<lambda>"]


def lazily_loaded_in_halves(session: Session) -> None:
    orders = session.scalars(select(Order)).all()
    for order in orders[:4]:
        len(order.items)
    for order in orders[4:]:
        len(order.items)


def test_repeats_at_several_lines_are_not_reported(observed: Probe, engine: Engine) -> None:
    assert found_by(observed, engine, lazily_loaded_in_halves) == []


def eagerly(*options: Any) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        for order in session.scalars(select(Order).options(*options)).unique():
            assert order.items

    return work


def eagerly_in_several_batches(session: Session) -> None:
    for _ in range(5):
        statement = select(Order).options(selectinload(Order.items)).execution_options(populate_existing=True)
        assert session.scalars(statement).all()


def few(session: Session) -> None:
    for number in range(1, 6):
        session.get(Item, number)


def pages(session: Session) -> None:
    for page in range(9):
        session.scalars(select(Item).order_by(Item.id).limit(1000).offset(1000 * page)).all()


def executemany(session: Session) -> None:
    for _ in range(9):
        session.connection().execute(text("UPDATE fastperf_items SET name = :a"), [{"a": "x"}, {"a": "y"}])


def insertmanyvalues(session: Session) -> None:
    session.execute(insert(Item).returning(Item.id), [{"order_id": 1} for _ in range(3000)])


def flushed_rows(session: Session) -> None:
    session.add_all([Item(order_id=1) for _ in range(20)])
    session.flush()


def flushed_changes(session: Session) -> None:
    for item in session.scalars(select(Item)):
        item.name = f"{item.id}"
    session.flush()


def refresh_of_one(session: Session) -> None:
    session.refresh(session.scalars(select(Order).limit(1)).one())


def savepoints(session: Session) -> None:
    for _ in range(9):
        session.begin_nested().commit()


def pragmas(session: Session) -> None:
    for _ in range(9):
        session.execute(text("PRAGMA user_version"))


def batches_of_values(session: Session) -> None:
    for number in range(9):
        session.scalars(select(Item).where(Item.id.in_(range(20 * number, 20 * number + 20)))).all()


def different_statements(session: Session) -> None:
    for column in (Item.id, Item.name, Item.order_id, Order.id, Order.customer_id, Customer.id, Customer.name):
        session.scalars(select(column)).all()


SILENT: dict[str, Callable[[Session], None]] = {
    "selectin": eagerly(selectinload(Order.items)),
    "subquery": eagerly(subqueryload(Order.items)),
    "joined": eagerly(joinedload(Order.items)),
    "several batches": eagerly_in_several_batches,
    **{
        work.__name__: work
        for work in (
            few,
            pages,
            executemany,
            insertmanyvalues,
            flushed_rows,
            flushed_changes,
            refresh_of_one,
            savepoints,
            pragmas,
            batches_of_values,
            different_statements,
        )
    },
}


@pytest.mark.parametrize("what", SILENT)
def test_other_repeats_are_not_reported(observed: Probe, engine: Engine, what: str) -> None:
    assert found_by(observed, engine, SILENT[what]) == []


def test_repeats_of_a_websocket_are_not_reported(observed: Probe, engine: Engine) -> None:
    with request(observed, "websocket") as record, Session(engine) as session:
        for number in range(1, ROWS + 1):
            session.get(Item, number)
    assert n_plus_one(record) == []


def test_background_work_is_not_part_of_the_request(observed: Probe, engine: Engine) -> None:
    with request(observed) as record:
        record.ended = time.perf_counter()
        with Session(engine) as session:
            for number in range(1, ROWS + 1):
                session.get(Item, number)
    assert record.statements == {}
    assert record.intervals == []


@pytest.fixture(params=["aiosqlite", "asyncpg", "psycopg"])
def async_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of each async driver."""
    if request.param == "aiosqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    return with_driver(request.getfixturevalue("postgresql_url"), request.param)


AsyncWork = Callable[[AsyncSession], Awaitable[Any]]


async def awaits_relationships(session: AsyncSession) -> None:
    for order in (await session.scalars(select(Order))).all():
        await order.awaitable_attrs.items


async def lazily_in_run_sync(session: AsyncSession) -> None:
    def lazily(sync_session: Session) -> None:
        for order in sync_session.scalars(select(Order)):
            len(order.items)

    await session.run_sync(lazily)


async def gets_in_a_loop(session: AsyncSession) -> None:
    for number in range(1, ROWS + 1):
        await session.get(Item, number)


async def deletes_in_a_loop(session: AsyncSession) -> None:
    for number in range(1, ROWS + 1):
        await (await session.connection()).execute(delete(Item).where(Item.id == number))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("work", "subject", "line"),
    [
        (awaits_relationships, "Order.items", "await order.awaitable_attrs.items"),
        (lazily_in_run_sync, "Order.items", "len(order.items)"),
        (gets_in_a_loop, "SELECT fastperf_items", "await session.get(Item, number)"),
        (
            deletes_in_a_loop,
            "DELETE fastperf_items",
            "await (await session.connection()).execute(delete(Item).where(Item.id == number))",
        ),
    ],
)
async def test_the_line_that_awaits_is_found_under_async_drivers(
    observed: Probe, async_url: str, work: AsyncWork, subject: str, line: str
) -> None:
    async with async_engine(async_url) as engine, AsyncSession(engine) as session:
        with request(observed) as record:
            await work(session)
    (finding,) = n_plus_one(record)
    assert finding.subject == subject
    assert line_of(finding.call_site) == line
    assert list(detect_sync_db_on_loop(record, SETTINGS)) == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("gather", "await asyncio.gather(*map(one, range(1, 21)))"),
        ("task group", "async with asyncio.TaskGroup() as group:"),
        ("one by one", "await one(number)"),
    ],
)
async def test_a_statement_per_item_is_reported_with_the_line_that_awaits_all(
    observed: Probe, async_url: str, how: str, line: str
) -> None:
    async with async_engine(async_url) as engine:

        async def one(number: int) -> None:
            async with AsyncSession(engine) as session:
                await session.get(Item, number)

        with request(observed) as record:
            if how == "gather":
                await asyncio.gather(*map(one, range(1, 21)))
            elif how == "task group":
                async with asyncio.TaskGroup() as group:
                    for number in range(1, 21):
                        group.create_task(one(number))
            else:
                for number in range(1, 21):
                    await one(number)
    (finding,) = n_plus_one(record)
    assert finding.evidence["repeats"] == 20
    assert line_of(finding.call_site) == line
    assert str(finding.evidence["statement_line"]).endswith("in one")
    assert ("called in a loop at" in finding.message) == (how == "one by one")
    assert "WHERE fastperf_items.id IN (…)" in finding.remedy


class Items:
    """A repository that every caller shares."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def item(self, number: int) -> Item | None:
        for _attempt in range(3):
            try:
                return self.session.get(Item, number)
            except OperationalError:
                continue
        return None


def test_the_loop_of_a_caller_is_reported_with_the_line_of_the_repository(observed: Probe, engine: Engine) -> None:
    def work(session: Session) -> None:
        items = Items(session)
        for number in range(1, ROWS + 1):
            items.item(number)

    (finding,) = found_by(observed, engine, work)
    assert line_of(finding.call_site) == "items.item(number)"
    assert str(finding.evidence["statement_line"]).endswith("in Items.item")


def test_a_statement_with_the_same_values_is_to_be_run_once(observed: Probe, engine: Engine) -> None:
    def work(session: Session) -> None:
        for _ in range(ROWS):
            session.scalar(select(Item.name).where(Item.id == 3))

    (finding,) = found_by(observed, engine, work)
    assert finding.remedy.startswith("Run it once before the loop")


def test_a_flush_for_each_row_is_reported(observed: Probe, engine: Engine) -> None:
    def work(session: Session) -> None:
        for _ in range(ROWS):
            session.add(Item(order_id=1))
            session.flush()

    (finding,) = found_by(observed, engine, work)
    assert finding.subject == "INSERT fastperf_items"
    assert line_of(finding.call_site) == "session.flush()"


@pytest.mark.anyio
async def test_eager_loads_of_async_sessions_are_not_reported(observed: Probe, async_url: str) -> None:
    async with async_engine(async_url) as engine, AsyncSession(engine) as session:
        with request(observed) as record:
            statement = select(Customer).options(selectinload(Customer.orders).selectinload(Order.items))
            for customer in (await session.scalars(statement)).all():
                assert customer.orders[0].items
    assert n_plus_one(record) == []


# slow_query


def sleeping(engine: Engine) -> Engine:
    """Add a function that sleeps to the connections of an SQLite engine."""

    def sleep(seconds: float) -> int:
        time.sleep(seconds)
        return 1

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _entry: Any) -> None:
        connection.create_function("fastperf_sleep", 1, sleep)

    engine.dispose()
    return engine


def test_a_slow_statement_is_reported_with_its_line_on_finding_and_span(observed: Probe, engine: Engine) -> None:
    sleeping(engine)
    with request(observed) as record, engine.connect() as connection:
        record.loop_thread = -1
        connection.execute(text("SELECT fastperf_sleep(0.25) FROM fastperf_items WHERE id = 1 AND name <> 'secret'"))
        connection.execute(text("SELECT 1"))
    (finding,) = detect_slow_query(record, SETTINGS)
    assert finding.subject == "SELECT fastperf_items"
    assert line_of(finding.call_site).startswith("connection.execute(text(")
    assert "EXPLAIN QUERY PLAN SELECT fastperf_sleep(?) FROM" in str(finding.evidence["explain"])
    assert "secret" not in str(finding)
    slow, fast = (dict(span.attributes or {}) for span in observed.spans()[-3:-1])
    assert slow["code.file.path"] == __file__
    assert slow["code.line.number"] == finding.call_site.line if finding.call_site else None
    assert slow["code.function.name"] == "test_a_slow_statement_is_reported_with_its_line_on_finding_and_span"
    assert "code.file.path" not in fast


def test_a_slow_executemany_is_reported(observed: Probe, engine: Engine) -> None:
    sleeping(engine)
    with request(observed) as record, engine.connect() as connection:
        connection.execute(text("UPDATE fastperf_items SET name = fastperf_sleep(:a)"), [{"a": 0.02}, {"a": 0.02}])
    (finding,) = detect_slow_query(record, SETTINGS)
    assert finding.subject == "BATCH UPDATE fastperf_items"


def test_a_slow_statement_that_fails_is_reported(observed: Probe, postgresql_url: str) -> None:
    """For example at the server's time limit."""
    engine = create_engine(with_driver(postgresql_url, "psycopg"))
    with request(observed) as record, engine.connect() as connection:
        connection.execute(text("SET statement_timeout = 250"))
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT pg_sleep(10)"))
    engine.dispose()
    (finding,) = detect_slow_query(record, SETTINGS)
    assert line_of(finding.call_site) == 'connection.execute(text("SELECT pg_sleep(10)"))'


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_slow_statements_of_postgresql_have_their_number_of_rows(
    observed: Probe, postgresql_url: str, driver: str
) -> None:
    engine = create_async_engine(with_driver(postgresql_url, driver))
    async with engine.connect() as connection:
        with request(observed) as record:
            await connection.execute(text("SELECT pg_sleep(0.1) FROM generate_series(1, 3)"))
    await engine.dispose()
    (finding,) = detect_slow_query(record, SETTINGS)
    assert finding.evidence["rows"] == 3
    assert line_of(finding.call_site).startswith("await connection.execute(")


@pytest.mark.anyio
async def test_time_while_the_event_loop_was_blocked_does_not_count(observed: Probe, tmp_path: Path) -> None:
    async with async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db") as engine, engine.connect() as connection:

        def block() -> None:
            start = time.perf_counter()
            time.sleep(0.6)
            observed.signals.delays.blocks.append(Block(start, time.perf_counter(), None, None))

        # runs after the statement was sent
        loop = asyncio.get_running_loop()
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *_: loop.call_soon(block))
        with request(observed) as record:
            await connection.execute(text("SELECT 1"))
    assert record.db_seconds >= 0.5
    assert list(detect_slow_query(record, SETTINGS)) == []


def test_time_of_the_garbage_collector_does_not_count(observed: Probe, engine: Engine) -> None:
    """Whoever caused it: it stops every thread, and the statement that is running is not slow by itself."""

    def collected(seconds: float) -> float:
        start = time.perf_counter()
        time.sleep(seconds)
        observed.signals.delays.pauses.append((start, time.perf_counter()))
        return seconds

    event.listen(engine, "connect", lambda connection, _: connection.create_function("collected", 1, collected))
    engine.dispose()
    settings = DatabaseSettings(n_plus_one_seconds=0.1, sync_on_loop=0.1)
    with request(observed) as record, engine.connect() as connection:
        connection.execute(text("SELECT collected(0.3)"))
        for _ in range(9):
            connection.execute(text("SELECT collected(0.03)"))
    assert record.db_seconds >= 0.5
    assert list(detect_slow_query(record, settings)) == []
    assert list(detect_n_plus_one(record, settings)) == []
    assert list(detect_sync_db_on_loop(record, settings)) == []


def test_time_in_which_the_machine_ran_other_processes_does_not_count(
    observed: Probe, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is half of the time here; a statement that is slow by itself is still found."""
    monkeypatch.setattr(observed.signals.delays.starvation, "seconds", lambda start, end: (end - start) / 2)
    sleeping(engine)
    with request(observed) as quick, engine.connect() as connection:
        connection.execute(text("SELECT fastperf_sleep(0.3)"))
    assert quick.db_seconds >= 0.3
    assert list(detect_slow_query(quick, SETTINGS)) == []
    (group,) = quick.statements.values()
    assert group.seconds == pytest.approx(quick.db_seconds / 2)
    with request(observed) as slow, engine.connect() as connection:
        connection.execute(text("SELECT fastperf_sleep(0.7)"))
    (finding,) = detect_slow_query(slow, SETTINGS)
    assert finding.kind == "slow_query"


def test_a_pause_that_is_not_recorded_yet_does_not_count(observed: Probe, engine: Engine) -> None:
    """The collecting thread lets others run before it has recorded its pause."""

    def collected(seconds: float) -> float:
        observed.signals.delays.collecting_since = time.perf_counter()
        time.sleep(seconds)
        return seconds

    event.listen(engine, "connect", lambda connection, _: connection.create_function("collected", 1, collected))
    engine.dispose()
    with request(observed) as record, engine.connect() as connection:
        connection.execute(text("SELECT collected(0.3)"))
    assert record.db_seconds >= 0.3
    assert list(detect_slow_query(record, SETTINGS)) == []


def slowly(engine: Engine, statement: Any, probe: Probe) -> Finding:
    """The finding of a statement to which a function adds 0.25 s."""
    sleeping(engine)
    with request(probe) as record, engine.connect() as connection:
        record.loop_thread = -1
        connection.execute(statement.where(func.fastperf_sleep(0.25) > 0))
    (finding,) = detect_slow_query(record, SETTINGS)
    return finding


def test_a_deep_page_by_offset_gets_a_page_by_keyset(observed: Probe, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(Item), [{"order_id": 1} for _ in range(2)])
    statement = select(Item).order_by(Item.id.desc()).limit(20)
    assert "keyset" not in slowly(engine, statement.where(Item.id == 1).offset(40), observed).remedy
    finding = slowly(engine, statement.where(Item.id == 1).offset(50_000), observed)
    assert "WHERE fastperf_items.id < :last ORDER BY fastperf_items.id DESC LIMIT n" in finding.remedy
    assert finding.evidence["rows_skipped"] == 50_000


def test_a_statement_that_finds_its_row_by_the_primary_key_gets_no_index(observed: Probe, engine: Engine) -> None:
    finding = slowly(engine, select(Item).where(Item.id == 1).with_for_update(), observed)
    assert finding.remedy.startswith("fastperf_items.id has a unique index, so another one does not help.")
    assert (
        "Add an index on (fastperf_items.name)."
        in slowly(engine, select(Item).where(Item.name == "pen"), observed).remedy
    )


@pytest.fixture
def passed_on(probe: Probe, engine: Engine) -> Iterator[list[SlowStatement]]:
    # after `engine`: on a busy disk its CREATE TABLE is a slow statement too
    found: list[SlowStatement] = []
    with instrument_database(None, SETTINGS, probe.signals, on_slow=found.append):
        yield found


def test_slow_statements_are_passed_on_as_the_driver_got_them(
    probe: Probe, passed_on: list[SlowStatement], engine: Engine
) -> None:
    sleeping(engine)
    statement = "SELECT fastperf_sleep(:seconds) FROM fastperf_items LIMIT 1"
    with request(probe) as record, engine.connect() as connection:
        connection.execute(text(statement), {"seconds": 0.25})
        connection.execute(text("SELECT 1"))
    (slow,) = passed_on
    (finding,) = detect_slow_query(record, SETTINGS)
    assert slow.engine is engine
    assert slow.text == "SELECT fastperf_sleep(?) FROM fastperf_items LIMIT 1"
    assert tuple(slow.parameters) == (0.25,)
    assert (slow.dialect, slow.summary, slow.record) == ("sqlite", "SELECT fastperf_items", record)
    assert slow.fingerprint == finding.evidence["db.query.fingerprint"]
    assert slow.seconds >= 0.25
    assert slow.span is not None
    ended = [span.context.span_id for span in probe.spans() if span.context is not None]
    assert slow.span.get_span_context().span_id in ended


@pytest.mark.anyio
async def test_for_an_async_engine_its_sync_engine_is_passed_on(
    probe: Probe, passed_on: list[SlowStatement], postgresql_url: str
) -> None:
    engine = create_async_engine(with_driver(postgresql_url, "asyncpg"))
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": 0.25})
    await engine.dispose()
    (slow,) = passed_on
    assert slow.engine is engine.sync_engine
    assert slow.record is None
    assert "$1" in slow.text


def test_an_executemany_is_not_passed_on(passed_on: list[SlowStatement], engine: Engine) -> None:
    sleeping(engine)
    with engine.connect() as connection:
        connection.execute(text("UPDATE fastperf_items SET name = fastperf_sleep(:a)"), [{"a": 0.02}, {"a": 0.02}])
    assert passed_on == []


def test_a_failing_on_slow_does_not_fail_the_statement(probe: Probe, engine: Engine) -> None:
    def fail(_slow: SlowStatement) -> None:
        raise RuntimeError("no plan")

    sleeping(engine)
    with instrument_database(None, SETTINGS, probe.signals, on_slow=fail), engine.connect() as connection:
        assert connection.execute(text("SELECT fastperf_sleep(0.25)")).scalar_one() == 1
    assert len(probe.failures) == 1
    assert [span.name for span in probe.spans()] == ["SELECT"]


# sync_db_on_loop


@pytest.mark.anyio
async def test_synchronous_statements_on_the_event_loop_are_reported(observed: Probe, engine: Engine) -> None:
    with request(observed) as record, engine.connect() as connection:
        connection.execute(select(Order.id))
        connection.execute(select(Item.id))
    (finding,) = detect_sync_db_on_loop(record, SETTINGS)
    assert finding.evidence["statements"] == 2
    assert finding.evidence["db.namespace"] == engine.url.database
    assert line_of(finding.call_site).startswith("connection.execute(select(")


@pytest.mark.anyio
async def test_synchronous_statements_of_postgresql_are_reported(observed: Probe, postgresql_url: str) -> None:
    engine = create_engine(with_driver(postgresql_url, "psycopg"))
    with request(observed) as record, engine.connect() as connection:
        connection.execute(text("SELECT pg_sleep(0.001)"))
    engine.dispose()
    (finding,) = detect_sync_db_on_loop(record, DatabaseSettings())
    assert "postgresql+asyncpg" in finding.remedy


@pytest.mark.anyio
async def test_synchronous_statements_in_threads_and_outside_of_requests_are_not_reported(
    observed: Probe, engine: Engine
) -> None:
    def read() -> None:
        with engine.connect() as connection:
            connection.execute(select(Order.id))

    read()
    with request(observed) as record:
        await anyio.to_thread.run_sync(read)
        await asyncio.to_thread(read)
    assert record.db_statements == 2
    assert list(detect_sync_db_on_loop(record, SETTINGS)) == []


@pytest.mark.anyio
async def test_synchronous_statements_in_a_greenlet_are_not_reported(observed: Probe, engine: Engine) -> None:
    """For example under gevent."""
    greenlet = pytest.importorskip("greenlet")

    def read() -> None:
        CURRENT.set(record)  # a new greenlet has its own context
        with engine.connect() as connection:
            connection.execute(select(Order.id))

    with request(observed) as record:
        greenlet.greenlet(read).switch()
    assert record.db_statements == 1
    assert list(detect_sync_db_on_loop(record, SETTINGS)) == []


# the request record


def test_every_statement_is_an_interval_of_the_time_budget(observed: Probe, engine: Engine) -> None:
    with request(observed) as record, engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.execute(text("UPDATE fastperf_items SET name = :a"), [{"a": "x"}, {"a": "y"}])
    assert [cause for _, _, cause in record.intervals] == [Cause.DB, Cause.DB]
    assert sum(end - start for start, end, _ in record.intervals) == pytest.approx(record.db_seconds)


def test_a_request_keeps_a_bounded_number_of_statements(observed: Probe, engine: Engine) -> None:
    with request(observed) as record, engine.connect() as connection:
        for number in range(MOST_STATEMENTS + 10):
            connection.execute(text(f"SELECT 1 AS a{number}"))
    assert len(record.statements) == MOST_STATEMENTS
    assert record.db_statements == MOST_STATEMENTS + 10


def test_repeats_in_several_threads_are_all_counted(observed: Probe, engine: Engine) -> None:
    def read() -> None:
        token = CURRENT.set(record)
        with engine.connect() as connection:
            for _ in range(50):
                connection.execute(text("SELECT 1"))
        CURRENT.reset(token)

    with request(observed) as record:
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert group_of(record, "SELECT").count == 200


def test_a_cursor_without_a_row_count_is_no_failure(observed: Probe, engine: Engine) -> None:
    class Cursor(sqlite3.Cursor):
        @property
        def rowcount(self) -> int:
            raise sqlite3.ProgrammingError("closed")

    class Connection(sqlite3.Connection):
        def cursor(self, *arguments: Any) -> Any:
            return super().cursor(Cursor)

    slow = create_engine("sqlite://", connect_args={"factory": Connection})
    sleeping(slow)
    with request(observed) as record, slow.connect() as connection:
        connection.execute(text("SELECT fastperf_sleep(0.25)"))
    slow.dispose()
    (finding,) = detect_slow_query(record, SETTINGS)
    assert "rows" not in finding.evidence

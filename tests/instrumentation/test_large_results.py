"""Results with many rows are counted, whatever the driver knows of them; streams are not."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import SpanKind
from sqlalchemy import Connection, Engine, create_engine, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from otel_fastperf.findings import CallSite
from otel_fastperf.instrumentation.statements import instrument_database
from otel_fastperf.requests.record import CURRENT, RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings
from tests.conftest import Probe
from tests.models import Item, fill
from tests.postgresql import with_driver

MANY = 3_000
SETTINGS = DatabaseSettings(large_result=MANY)


@pytest.fixture
def observed(probe: Probe) -> Iterator[Probe]:
    with instrument_database(None, SETTINGS, probe.signals):
        yield probe
    assert probe.failures == []


def rows(first: int) -> list[dict[str, int]]:
    return [{"id": first + number, "order_id": 1} for number in range(MANY)]


def filled(connection: Connection) -> None:
    fill(connection)
    connection.execute(insert(Item), rows(100))


@pytest.fixture(params=["sqlite", "psycopg"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/shop.db"
    else:
        url = with_driver(request.getfixturevalue("postgresql_url"), request.param)
    engine = create_engine(url)
    with engine.begin() as connection:
        filled(connection)
    yield engine
    engine.dispose()


@pytest.fixture(params=["aiosqlite", "asyncpg", "psycopg"])
async def async_engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    if request.param == "aiosqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    else:
        url = with_driver(request.getfixturevalue("postgresql_url"), request.param)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(filled)
    yield engine
    await engine.dispose()


@contextmanager
def request(probe: Probe) -> Iterator[RequestRecord]:
    with probe.signals.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER) as span:
        record = RequestRecord(probe.signals, {"type": "http"}, span, time.perf_counter())
        token = CURRENT.set(record)
        try:
            yield record
        finally:
            CURRENT.reset(token)


def large(record: RequestRecord) -> list[StatementGroup]:
    return [group for group in record.statements.values() if group.rows]


def line_of(site: CallSite | None) -> str:
    assert site is not None
    assert site.file == __file__
    return Path(site.file).read_text().splitlines()[site.line - 1].strip()


def test_instances_are_counted_with_their_class_and_line(observed: Probe, engine: Engine) -> None:
    with Session(engine) as session, request(observed) as record:
        items = session.scalars(select(Item)).all()
    (group,) = large(record)
    assert group.rows == len(items)
    assert group.rows_class == "Item"
    assert line_of(group.rows_site) == "items = session.scalars(select(Item)).all()"


@pytest.mark.parametrize(
    "work",
    [
        lambda session: session.execute(select(Item.id, Item.name)).all(),
        lambda session: session.execute(text("SELECT id FROM fastperf_items")).fetchall(),
        lambda session: session.connection().exec_driver_sql("SELECT id FROM fastperf_items").mappings().all(),
    ],
    ids=["columns", "text", "driver"],
)
def test_plain_rows_are_counted_without_a_class(
    observed: Probe, engine: Engine, work: Callable[[Session], list[Any]]
) -> None:
    with Session(engine) as session, request(observed) as record:
        found = work(session)
    (group,) = large(record)
    assert (group.rows, group.rows_class) == (len(found), "")


@pytest.mark.parametrize(
    "work",
    [
        lambda session: list(session.scalars(select(Item).execution_options(yield_per=100))),
        lambda session: list(session.execute(select(Item.id), execution_options={"stream_results": True})),
        lambda session: list(session.execute(select(Item.id)).yield_per(100)),
        lambda session: session.scalars(select(Item).limit(MANY - 1)).all(),
        lambda session: session.execute(insert(Item).returning(Item.id), rows(100_000)).all(),
    ],
    ids=["yield_per", "stream_results", "yield_per of the result", "fewer rows", "returning"],
)
def test_streams_fewer_rows_and_inserts_work_as_before(
    observed: Probe, engine: Engine, work: Callable[[Session], list[Any]]
) -> None:
    with Session(engine) as session, request(observed) as record:
        found = work(session)
    assert len(found) >= MANY - 1
    # a driver that reads all rows at once has them all in memory, whatever the result does
    if "sqlite" in str(engine.url) or len(found) < MANY:
        assert large(record) == []


@pytest.mark.anyio
async def test_rows_of_async_drivers_are_counted(observed: Probe, async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as session:
        with request(observed) as record:
            items = (await session.scalars(select(Item))).all()
    (group,) = large(record)
    assert group.rows == len(items)
    assert line_of(group.rows_site) == "items = (await session.scalars(select(Item))).all()"


@pytest.mark.anyio
async def test_async_streams_are_not_counted(observed: Probe, async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as session:
        with request(observed) as record:
            stream = await session.stream_scalars(select(Item).execution_options(yield_per=100))
            assert len([item async for item in stream]) >= MANY
    assert large(record) == []


def test_several_results_of_a_statement_add_up(observed: Probe, engine: Engine) -> None:
    with request(observed) as record, Session(engine) as session:
        first = session.scalars(select(Item)).all()
        second = session.scalars(select(Item)).all()
    (group,) = large(record)
    assert group.rows == len(first) + len(second)


def test_a_failure_to_count_costs_no_rows(probe: Probe, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_fastperf.instrumentation.large_results.loaded_class", None)
    with instrument_database(None, SETTINGS, probe.signals), Session(engine) as session, request(probe):
        assert len(session.scalars(select(Item)).all()) >= MANY
    assert probe.failures

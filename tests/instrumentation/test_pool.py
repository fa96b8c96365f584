"""Connection pools: used, idle and pending connections are counted correctly, however a connection ends."""

import asyncio
import gc
import linecache
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from anyio import move_on_after
from sqlalchemy import (
    AsyncAdaptedQueuePool,
    Engine,
    NullPool,
    QueuePool,
    StaticPool,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from starlette.background import BackgroundTask
from starlette.routing import Route

from otel_fastperf.findings import Finding, Severity
from otel_fastperf.instrumentation import pool as pool_module
from otel_fastperf.instrumentation.background import instrument_background
from otel_fastperf.instrumentation.pool import _name, instrument_pool
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import CURRENT, RequestRecord
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.signals import Block
from tests.conftest import Probe, signals_of
from tests.postgresql import with_driver

NewEngine = Callable[..., Engine]


@pytest.fixture
def observed(probe: Probe) -> Iterator[Probe]:
    """Observe the pools of all engines of the process."""
    with instrument_pool(None, DatabaseSettings(), probe.signals):
        yield probe


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A SQLite file; its engines have a `QueuePool`. The path is also the name of the pool."""
    return f"{tmp_path}/shop.db"


@pytest.fixture
def new_engine(path: str) -> Iterator[NewEngine]:
    """Make engines, by default for that file, whose connections are closed at the end."""
    with ExitStack() as stack:

        def make(url: str = f"sqlite:///{path}", **options: Any) -> Engine:
            engine = create_engine(url, **options)
            stack.callback(engine.dispose)
            return engine

        yield make


@asynccontextmanager
async def async_engine(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    # SQLAlchemy 2.0 has no queue for aiosqlite by default
    engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


def value(probe: Probe, metric: str, pool: str, **labels: str) -> float | None:
    """The value of a pool metric on `/metrics`."""
    assert list(probe.signals.metrics.refresh()) == []
    return probe.value(f"db_client_connection_{metric}", db_client_connection_pool_name=pool, **labels)


def states(probe: Probe, pool: str) -> tuple[float | None, float | None]:
    """The numbers of used and idle connections."""
    used = value(probe, "count", pool, db_client_connection_state="used")
    return used, value(probe, "count", pool, db_client_connection_state="idle")


def pools(probe: Probe) -> set[str]:
    """The names of the pools on `/metrics`."""
    assert list(probe.signals.metrics.refresh()) == []
    return {
        sample.labels["db_client_connection_pool_name"]
        for family in probe.signals.metrics.registry.collect()
        if family.name.startswith("db_client_connection")
        for sample in family.samples
    }


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.01)


# metrics


def test_a_connection_is_used_and_then_idle(observed: Probe, new_engine: NewEngine, path: str) -> None:
    engine = new_engine()
    with engine.connect(), engine.connect():
        assert states(observed, path) == (2, 0)
    assert states(observed, path) == (0, 2)


def test_the_maximum_of_a_pool_is_shown(observed: Probe, new_engine: NewEngine, path: str) -> None:
    new_engine(pool_size=3, max_overflow=4).connect().close()
    assert value(observed, "max", path) == 7


@pytest.mark.parametrize("options", [{"pool_size": 0}, {"max_overflow": -1}])
def test_a_pool_without_a_limit_has_no_maximum(
    observed: Probe, new_engine: NewEngine, path: str, options: dict[str, int]
) -> None:
    with new_engine(**options).connect():
        assert value(observed, "max", path) is None
        assert states(observed, path) == (1, 0)


def test_waiting_using_and_creating_are_timed(observed: Probe, new_engine: NewEngine, path: str) -> None:
    engine = new_engine()
    for _ in range(3):
        with engine.connect():
            time.sleep(0.02)
    assert value(observed, "wait_time_seconds_count", path) == 3
    assert value(observed, "use_time_seconds_count", path) == 3
    assert value(observed, "create_time_seconds_count", path) == 1
    assert (value(observed, "use_time_seconds_sum", path) or 0) >= 0.06
    waited = value(observed, "wait_time_seconds_sum", path) or 0
    assert waited >= (value(observed, "create_time_seconds_sum", path) or 0) > 0


def test_a_connection_made_by_a_custom_creator_is_timed(observed: Probe, new_engine: NewEngine, path: str) -> None:
    engine = new_engine("sqlite://", creator=lambda: sqlite3.connect(path), pool_logging_name="own")
    engine.connect().close()
    assert value(observed, "create_time_seconds_count", "own") == 1


def test_a_waiting_request_is_pending_and_then_timed_out(observed: Probe, new_engine: NewEngine, path: str) -> None:
    engine = new_engine(pool_size=1, max_overflow=0, pool_timeout=0.5)
    timed_out = threading.Event()

    def wait() -> None:
        with suppress(PoolTimeoutError):
            engine.connect()
        timed_out.set()

    with engine.connect():
        assert value(observed, "timeouts_total", path) == 0
        assert value(observed, "pending_requests", path) == 0
        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: value(observed, "pending_requests", path) == 1 or timed_out.is_set())
        thread.join()
    assert timed_out.is_set()
    assert value(observed, "pending_requests", path) == 0
    assert value(observed, "timeouts_total", path) == 1
    assert value(observed, "wait_time_seconds_count", path) == 1
    assert states(observed, path) == (0, 1)


@pytest.mark.anyio
async def test_pools_of_async_engines_have_the_same_metrics(observed: Probe, path: str) -> None:
    async with async_engine(f"sqlite+aiosqlite:///{path}", pool_size=2, max_overflow=0, pool_timeout=0.1) as engine:
        async with engine.connect(), engine.connect():
            assert states(observed, path) == (2, 0)
            with pytest.raises(PoolTimeoutError):
                await engine.connect()
        assert states(observed, path) == (0, 2)
    assert value(observed, "max", path) == 2
    assert value(observed, "timeouts_total", path) == 1
    assert value(observed, "wait_time_seconds_count", path) == 2
    assert value(observed, "create_time_seconds_count", path) == 2
    assert value(observed, "use_time_seconds_count", path) == 2


@pytest.mark.anyio
async def test_a_cancelled_wait_is_no_longer_pending(observed: Probe, path: str) -> None:
    async with async_engine(f"sqlite+aiosqlite:///{path}", pool_size=1, max_overflow=0) as engine:
        async with engine.connect():
            waiting = asyncio.ensure_future(engine.connect().start())
            while value(observed, "pending_requests", path) != 1:
                await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert value(observed, "pending_requests", path) == 0
            assert states(observed, path) == (1, 0)
        assert states(observed, path) == (0, 1)
    assert value(observed, "timeouts_total", path) == 0


# names


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://ada:secret@db.example:5433/shop", "db.example:5433/shop"),
        ("postgresql+asyncpg://ada:secret@db.example/shop", "db.example/shop"),
        ("postgresql://ada:secret@/shop?host=/run/postgresql", "/run/postgresql/shop"),
        ("mysql+pymysql://db.example", "db.example/"),
        ("sqlite:////var/lib/shop.db", "/var/lib/shop.db"),
        ("sqlite://", ":memory:"),
    ],
)
def test_a_pool_is_named_after_its_server_and_database(url: str, name: str) -> None:
    parsed = make_url(url)
    dialect = parsed.get_dialect()()
    # an engine without a database and without a driver
    assert _name(Engine(NullPool(lambda: None), dialect, parsed)) == name  # type: ignore[arg-type]


def test_a_pool_has_the_name_that_the_user_gave_it(observed: Probe, new_engine: NewEngine) -> None:
    new_engine(pool_logging_name="reports").connect().close()
    assert pools(observed) == {"reports"}


def test_engines_with_the_same_url_have_different_names(observed: Probe, new_engine: NewEngine, path: str) -> None:
    with new_engine().connect(), new_engine().connect():
        assert states(observed, path) == (1, 0)
        assert states(observed, f"{path}#2") == (1, 0)
    assert pools(observed) == {path, f"{path}#2"}


def test_a_copy_by_execution_options_shares_the_pool(observed: Probe, new_engine: NewEngine, path: str) -> None:
    engine = new_engine()
    with engine.execution_options(logging_token="reports").connect(), engine.connect():
        assert states(observed, path) == (2, 0)
    assert pools(observed) == {path}


def test_a_disposed_engine_keeps_its_name(observed: Probe, new_engine: NewEngine, path: str) -> None:
    engine = new_engine()
    first = engine.pool
    with engine.connect():
        engine.dispose()
        with engine.connect():
            assert states(observed, path) == (2, 0)
        assert states(observed, path) == (1, 1)
    assert states(observed, path) == (0, 1)
    assert pools(observed) == {path}
    first.dispose()


def test_the_series_of_a_deleted_engine_are_removed_and_its_name_is_free(observed: Probe, path: str) -> None:
    for _ in range(2):
        engine = create_engine(f"sqlite:///{path}")
        engine.connect().close()
        engine.dispose()
        assert pools(observed) == {path}
        del engine
        gc.collect()
    assert pools(observed) == set()


# the end of a connection


def test_a_detached_connection_is_no_longer_in_the_pool(observed: Probe, new_engine: NewEngine, path: str) -> None:
    connection = new_engine().connect()
    connection.detach()
    assert states(observed, path)[0] == 0
    connection.close()
    assert states(observed, path)[0] == 0
    assert value(observed, "use_time_seconds_count", path) == 1


@pytest.mark.parametrize("soft", [False, True])
def test_an_invalidated_connection_is_no_longer_used(
    observed: Probe, new_engine: NewEngine, path: str, *, soft: bool
) -> None:
    engine = new_engine()
    raw = engine.raw_connection()
    raw.invalidate(soft=soft)
    raw.close()
    assert states(observed, path)[0] == 0
    with engine.connect():
        assert states(observed, path) == (1, 0)
    assert states(observed, path) == (0, 1)
    assert value(observed, "create_time_seconds_count", path) == 2


def test_a_connection_that_reconnects_after_invalidation_counts_once(
    observed: Probe, new_engine: NewEngine, path: str
) -> None:
    with new_engine().connect() as connection:
        connection.invalidate()
        assert states(observed, path)[0] == 0
        connection.execute(text("SELECT 1"))
        assert states(observed, path)[0] == 1
    assert states(observed, path)[0] == 0


def test_a_failed_checkout_leaves_nothing_in_use(observed: Probe, new_engine: NewEngine, path: str) -> None:
    engine = new_engine()

    @event.listens_for(engine, "checkout")
    def refuse(*_args: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.connect()
    assert states(observed, path)[0] == 0
    assert value(observed, "pending_requests", path) == 0


def test_an_unreachable_database_leaves_nothing_in_use(observed: Probe, new_engine: NewEngine) -> None:
    engine = new_engine("sqlite:////nowhere/at/all.db")
    with pytest.raises(OperationalError):
        engine.connect()
    assert states(observed, "/nowhere/at/all.db") == (0, 0)
    assert value(observed, "pending_requests", "/nowhere/at/all.db") == 0
    assert value(observed, "create_time_seconds_count", "/nowhere/at/all.db") in {None, 0}


def test_a_leaked_connection_is_returned_by_the_garbage_collector(
    observed: Probe, new_engine: NewEngine, path: str
) -> None:
    connection = new_engine().connect()
    assert states(observed, path) == (1, 0)
    del connection
    gc.collect()
    assert states(observed, path) == (0, 1)
    assert value(observed, "use_time_seconds_count", path) == 1


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore")
async def test_a_leaked_async_connection_is_dropped_by_the_garbage_collector(observed: Probe, path: str) -> None:
    async with async_engine(f"sqlite+aiosqlite:///{path}") as engine:
        connection = await engine.connect()
        driver = (await connection.get_raw_connection()).driver_connection
        assert states(observed, path)[0] == 1
        del connection
        gc.collect()
        assert states(observed, path)[0] == 0
        # SQLAlchemy has dropped it, closed or not; aiosqlite does not answer a second close
        assert driver is not None
        with move_on_after(2):
            await driver.close()


def test_many_threads_leave_nothing_behind(observed: Probe, new_engine: NewEngine, path: str) -> None:
    engine = new_engine(pool_size=2, max_overflow=2)

    def work() -> None:
        for _ in range(50):
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states(observed, path)[0] == 0
    assert value(observed, "pending_requests", path) == 0
    assert value(observed, "wait_time_seconds_count", path) == 400
    assert value(observed, "use_time_seconds_count", path) == 400


# other pools


def test_a_pool_that_keeps_no_connections_shows_the_used_ones(
    observed: Probe, new_engine: NewEngine, path: str
) -> None:
    engine = new_engine(poolclass=NullPool)
    with engine.connect(), engine.connect():
        assert states(observed, path) == (2, None)
    assert states(observed, path) == (0, None)
    assert value(observed, "max", path) is None
    assert value(observed, "create_time_seconds_count", path) == 2


def test_a_shared_connection_counts_once(observed: Probe, new_engine: NewEngine) -> None:
    """In-memory SQLite: `SingletonThreadPool` returns the same connection to a thread again."""
    engine = new_engine("sqlite://")
    with engine.connect():
        time.sleep(0.05)
        with engine.connect():
            assert states(observed, ":memory:") == (1, None)
        assert states(observed, ":memory:") == (1, None)
    assert states(observed, ":memory:") == (0, None)
    assert value(observed, "use_time_seconds_count", ":memory:") == 1
    assert (value(observed, "use_time_seconds_sum", ":memory:") or 0) >= 0.05


def test_a_static_pool_has_one_connection(observed: Probe, new_engine: NewEngine) -> None:
    engine = new_engine("sqlite://", poolclass=StaticPool)
    with engine.connect(), engine.connect():
        assert states(observed, ":memory:") == (1, None)
    assert states(observed, ":memory:") == (0, None)


# choice of engines, and undoing


def test_only_the_given_engines_are_observed(probe: Probe, new_engine: NewEngine) -> None:
    ours, other = new_engine(pool_logging_name="ours"), new_engine(pool_logging_name="other")
    with instrument_pool([ours], DatabaseSettings(), probe.signals):
        ours.connect().close()
        ours.execution_options(logging_token="x").connect().close()
        other.connect().close()
        assert pools(probe) == {"ours"}
        assert value(probe, "wait_time_seconds_count", "ours") == 2


@pytest.mark.anyio
async def test_an_async_engine_can_be_given(probe: Probe, path: str) -> None:
    async with async_engine(f"sqlite+aiosqlite:///{path}") as engine:
        with instrument_pool([engine], DatabaseSettings(), probe.signals):
            async with engine.connect():
                assert states(probe, path) == (1, 0)


def test_an_engine_already_in_use_is_observed_from_now_on(probe: Probe, new_engine: NewEngine, path: str) -> None:
    engine = new_engine()
    early = engine.connect()
    engine.connect().close()
    with instrument_pool(None, DatabaseSettings(), probe.signals):
        with engine.connect():
            assert states(probe, path)[0] == 1
        early.close()
        assert states(probe, path) == (0, 2)


def test_everything_is_undone_at_the_end(probe: Probe, new_engine: NewEngine, path: str) -> None:
    engine = new_engine()

    raw_connection = Engine.raw_connection
    with instrument_pool(None, DatabaseSettings(), probe.signals):
        engine.connect().close()
        assert states(probe, path) == (0, 1)
    assert Engine.raw_connection is raw_connection
    engine.connect().close()
    assert states(probe, path) == (None, None)
    assert value(probe, "wait_time_seconds_count", path) == 1


def test_a_connection_in_use_at_the_end_can_still_be_returned(probe: Probe, new_engine: NewEngine, path: str) -> None:
    engine = new_engine()
    with instrument_pool(None, DatabaseSettings(), probe.signals):
        connection = engine.connect()
    connection.close()
    with instrument_pool(None, DatabaseSettings(), probe.signals):
        with engine.connect():
            assert states(probe, path) == (1, 0)
        assert states(probe, path) == (0, 1)
    assert probe.failures == []


@pytest.mark.parametrize("first_ends", [0, 1])
def test_two_telemetries_both_observe_and_end_in_any_order(
    probe: Probe, new_engine: NewEngine, path: str, first_ends: int
) -> None:
    raw_connection = Engine.raw_connection
    other = Probe(signals_of(probe.signals.tracer, Metrics(), probe.signals.guard), probe.exporter)
    stacks = [ExitStack(), ExitStack()]
    for stack, each in zip(stacks, (probe, other), strict=True):
        stack.enter_context(instrument_pool(None, DatabaseSettings(), each.signals))
    engine = new_engine()
    with engine.connect():
        assert states(probe, path) == states(other, path) == (1, 0)
    stacks.pop(first_ends).close()
    staying = (other, probe)[first_ends]
    with engine.connect():
        assert states(staying, path) == (1, 0)
    assert value(staying, "use_time_seconds_count", path) == 2
    stacks.pop().close()
    assert Engine.raw_connection is raw_connection


def test_a_later_wrapper_of_the_method_stays(
    probe: Probe, new_engine: NewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Engine] = []
    with instrument_pool(None, DatabaseSettings(), probe.signals):
        ours = Engine.raw_connection

        def theirs(engine: Engine) -> Any:
            calls.append(engine)
            return ours(engine)

        monkeypatch.setattr(Engine, "raw_connection", theirs)
    engine = new_engine(pool_logging_name="late")
    engine.connect().close()
    assert calls == [engine]
    assert pools(probe) == set()


def test_a_failure_of_telemetry_fails_no_connection(probe: Probe, new_engine: NewEngine) -> None:
    class NoMetrics(Metrics):
        def declared(self, name: str) -> Any:
            raise ZeroDivisionError

    failures: list[str] = []
    signals = signals_of(probe.signals.tracer, NoMetrics(), Guard(failures.append))
    with instrument_pool(None, DatabaseSettings(), signals), new_engine().connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    assert set(failures) == {"pool"}


# PostgreSQL


def test_connections_closed_by_postgresql_are_no_longer_used(
    observed: Probe, new_engine: NewEngine, postgresql_url: str
) -> None:
    engine = new_engine(with_driver(postgresql_url, "psycopg"), pool_logging_name="pg", pool_pre_ping=True)
    with engine.connect() as killer, suppress(DBAPIError), engine.connect() as victim:
        pid = victim.scalar(text("SELECT pg_backend_pid()"))
        killer.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        assert states(observed, "pg") == (2, 0)
        eventually(lambda: dead(victim))
    assert states(observed, "pg")[0] == 0
    with engine.connect():
        assert states(observed, "pg")[0] == 1
    assert states(observed, "pg")[0] == 0


def dead(connection: Any) -> bool:
    try:
        connection.execute(text("SELECT 1"))
    except DBAPIError:
        return True
    return False


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_pools_of_postgresql_s_async_drivers_are_observed(
    observed: Probe, postgresql_url: str, driver: str
) -> None:
    url = make_url(postgresql_url)
    name = f"{url.host}{f':{url.port}' if url.port else ''}/{url.database}"
    async with async_engine(with_driver(postgresql_url, driver), pool_size=2, max_overflow=0) as engine:

        async def work() -> None:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT pg_sleep(0.01)"))

        await asyncio.gather(*(work() for _ in range(10)))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2), engine.connect() as connection:
                await connection.execute(text("SELECT pg_sleep(60)"))
        assert states(observed, name)[0] == 0
        assert value(observed, "pending_requests", name) == 0
        assert value(observed, "wait_time_seconds_count", name) == 11
        assert value(observed, "use_time_seconds_count", name) == 11
        assert pools(observed) == {name}


# findings


@contextmanager
def request(probe: Probe, path: str) -> Iterator[RequestRecord]:
    """A request in progress on the route of that path."""
    route = Route(path, lambda _: None)
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "route": route, "path_params": {}}
    with probe.signals.tracer.start_as_current_span(f"GET {path}") as span:
        record = RequestRecord(probe.signals, scope, span, time.perf_counter())
        token = CURRENT.set(record)
        try:
            yield record
        finally:
            CURRENT.reset(token)


def pool_waits(probe: Probe) -> list[Finding]:
    return [finding for finding in probe.findings() if finding.kind == "pool_wait"]


def in_request(probe: Probe, path: str, work: Callable[[], None]) -> threading.Thread:
    """A request with that path, in its own thread."""

    def serve() -> None:
        with request(probe, path):
            work()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_every_wait_is_an_interval_of_the_time_budget(observed: Probe, new_engine: NewEngine) -> None:
    engine = new_engine(pool_size=1, max_overflow=0, pool_timeout=0.1)
    with request(observed, "/orders") as record:
        with engine.connect(), pytest.raises(PoolTimeoutError):
            engine.connect()
        engine.connect().close()
    waits = [(start, end) for start, end, cause in record.intervals if cause == Cause.POOL_WAIT]
    assert len(waits) == 3
    assert sum(end - start for start, end in waits) >= 0.1


def test_a_long_wait_names_the_routes_that_use_the_connections(
    observed: Probe, new_engine: NewEngine, path: str
) -> None:
    engine = new_engine(pool_size=1, max_overflow=1)
    holding, release = threading.Barrier(3), threading.Event()

    def hold() -> None:
        with engine.connect():
            holding.wait(10)
            release.wait(10)

    threads = [in_request(observed, "/export", hold) for _ in range(2)]
    holding.wait(10)
    threads.append(in_request(observed, "/orders", lambda: engine.connect().close()))
    eventually(lambda: value(observed, "pending_requests", path) == 1)
    time.sleep(0.3)
    release.set()
    for thread in threads:
        thread.join()
    (finding,) = pool_waits(observed)
    assert (finding.route, finding.subject, finding.severity) == ("/orders", path, Severity.WARNING)
    assert finding.seconds >= 0.2
    assert "2 of 2 were in use, by /export (2, the longest for " in finding.message
    assert (finding.evidence["pool_size"], finding.evidence["pool_max"], finding.evidence["used"]) == (1, 2, 2)
    assert [event.name for span in observed.spans() for event in span.events] == ["fastperf.pool_wait"]


def test_a_time_out_is_critical_in_requests_and_outside(observed: Probe, new_engine: NewEngine) -> None:
    engine = new_engine(pool_size=1, max_overflow=0, pool_timeout=0.01)
    with engine.connect():
        with pytest.raises(PoolTimeoutError):
            engine.connect()
        with request(observed, "/orders"), pytest.raises(PoolTimeoutError):
            engine.connect()
    assert {(finding.route, finding.severity) for finding in pool_waits(observed)} == {
        ("", Severity.CRITICAL),
        ("/orders", Severity.CRITICAL),
    }
    assert "in use, by code outside of requests (1," in pool_waits(observed)[0].message


def test_a_wait_for_a_second_connection_warns_of_a_deadlock(observed: Probe, new_engine: NewEngine) -> None:
    engine = new_engine(pool_size=1, max_overflow=0, pool_timeout=0.01)
    with request(observed, "/orders"), engine.connect(), pytest.raises(PoolTimeoutError):
        engine.connect()
    (finding,) = pool_waits(observed)
    assert "a second connection while it kept its first" in finding.remedy


@pytest.mark.anyio
async def test_connections_of_parallel_tasks_of_one_request_are_no_deadlock(observed: Probe, path: str) -> None:
    async with async_engine(f"sqlite+aiosqlite:///{path}", pool_size=3, max_overflow=0) as engine:

        async def read() -> None:
            async with engine.connect():
                await asyncio.sleep(0.1)

        with request(observed, "/dashboard"):
            await asyncio.gather(*(read() for _ in range(6)))
    (finding,) = pool_waits(observed)
    assert "One request alone uses 3 of them at once" in finding.message
    assert "deadlock" not in finding.remedy


@pytest.mark.anyio
async def test_a_leak_names_the_line_that_checked_the_connection_out(
    observed: Probe, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_LEAKED", 0.05)
    kept: list[AsyncConnection] = []
    async with async_engine(f"sqlite+aiosqlite:///{path}", pool_size=3, max_overflow=0, pool_timeout=0.1) as engine:

        async def leak() -> None:
            with request(observed, "/leak") as record:
                kept.append(await engine.connect())
                record.ended = time.perf_counter()

        for _ in range(3):
            await asyncio.create_task(leak())
        await asyncio.sleep(0.1)
        with request(observed, "/orders"), pytest.raises(PoolTimeoutError):
            await engine.connect()
        (finding,) = pool_waits(observed)
        for connection in kept:
            await connection.close()
    assert (finding.route, finding.severity) == ("/leak", Severity.CRITICAL)
    assert "3 of them leaked" in finding.message
    assert finding.call_site is not None
    assert finding.call_site.function.endswith("leak")
    assert "kept.append(await engine.connect())" in linecache.getline(finding.call_site.file, finding.call_site.line)


@pytest.mark.anyio
@pytest.mark.parametrize("kept_by", ["background task", "task that it started"])
async def test_a_connection_that_outlives_its_request_and_is_still_used_has_not_leaked(
    observed: Probe, path: str, monkeypatch: pytest.MonkeyPatch, kept_by: str
) -> None:
    monkeypatch.setattr(pool_module, "_LEAKED", 0.01)
    release = asyncio.Event()
    async with async_engine(f"sqlite+aiosqlite:///{path}", pool_size=1, max_overflow=0, pool_timeout=0.1) as engine:

        async def export() -> None:
            async with engine.connect():
                await release.wait()

        with instrument_background(observed.signals), request(observed, "/export") as record:
            work = BackgroundTask(export)() if kept_by == "background task" else export()
            task = asyncio.create_task(work)
            await asyncio.sleep(0.02)
            record.ended = time.perf_counter()
            await asyncio.sleep(0.05)
        with request(observed, "/orders"), pytest.raises(PoolTimeoutError):
            await engine.connect()
        release.set()
        await task
    (finding,) = pool_waits(observed)
    assert (finding.route, "leaked" in finding.message) == ("/orders", False)


@pytest.mark.anyio
async def test_a_wait_that_a_blocked_loop_explains_is_not_reported(observed: Probe, path: str) -> None:
    """Requests that piled up behind the block wait for each other afterwards: that is its consequence."""
    async with async_engine(f"sqlite+aiosqlite:///{path}", pool_size=1, max_overflow=0) as engine:
        await wait_behind_others(observed, engine)
        assert len(pool_waits(observed)) == 1
        observed.signals.findings.log.clear()
        started = time.perf_counter()
        time.sleep(0.2)
        observed.signals.delays.blocks.append(Block(started, time.perf_counter(), None, None))
        await wait_behind_others(observed, engine)
        assert pool_waits(observed) == []


async def wait_behind_others(probe: Probe, engine: AsyncEngine) -> None:
    async def serve() -> None:
        with request(probe, "/orders"):
            async with engine.connect():
                await asyncio.sleep(0.3)

    await asyncio.gather(serve(), serve())


def test_opening_a_connection_is_not_a_wait_for_a_free_one(observed: Probe, new_engine: NewEngine, path: str) -> None:
    """Neither is a slow check-out while connections are available, at start-up or behind a blocked event loop."""

    def slowly() -> sqlite3.Connection:
        time.sleep(0.1)
        return sqlite3.connect(path)

    engine = new_engine("sqlite://", creator=slowly, poolclass=QueuePool, pool_size=2)
    with request(observed, "/orders") as record, engine.connect(), engine.connect():
        pass
    assert sum(end - start for start, end, _ in record.intervals) >= 0.2
    assert pool_waits(observed) == []


def test_waits_outside_of_requests_are_not_reported(observed: Probe, new_engine: NewEngine) -> None:
    engine = new_engine(pool_size=1, max_overflow=0)
    connection = engine.connect()
    timer = threading.Timer(0.1, connection.close)
    timer.start()
    engine.connect().close()
    timer.join()
    assert pool_waits(observed) == []


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_waits_for_connections_of_async_drivers_are_reported(
    observed: Probe, postgresql_url: str, driver: str
) -> None:
    engine = create_async_engine(with_driver(postgresql_url, driver), pool_size=2, max_overflow=0)

    async def serve(path: str) -> None:
        with request(observed, path):
            async with engine.connect():
                await asyncio.sleep(0.3)

    await asyncio.gather(*(serve(path) for path in ("/a", "/a", "/b", "/b")))
    await engine.dispose()
    (finding,) = pool_waits(observed)
    assert (finding.route, finding.count) == ("/b", 2)
    assert "2 of 2 were in use, by /a (2, the longest for 0." in finding.message


def test_a_request_is_not_kept_alive_after_its_connection_is_returned(observed: Probe, new_engine: NewEngine) -> None:
    engine = new_engine(pool_size=1, max_overflow=0)
    with request(observed, "/orders") as record:
        engine.connect().close()
    gone = weakref.ref(record.scope["route"])
    del record
    gc.collect()
    assert gone() is None

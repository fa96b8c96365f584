"""The first remedy saves what the report says: apps are measured, mended and measured again."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, QueuePool, StaticPool, create_engine, event, text

from otel_fastperf import Settings, setup_telemetry
from otel_fastperf.report.model import Report
from tests.serving import Served, serve, wait_until

#: within which a saving must be right
EXACT: Final = 0.3
ROUNDS: Final = 3

#: starts one round of requests
Round = Callable[[Served, ThreadPoolExecutor], Sequence[Any]]


def measured(make: Callable[[bool], FastAPI], requests: Round, *, mended: bool) -> Report:
    """The report after some rounds of requests."""
    app = make(mended)
    settings = Settings(database={"n_plus_one_seconds": 0}, loop={"start_after": 0}, memory={"enabled": False})
    sent = 0
    with setup_telemetry(app, settings=settings) as telemetry, serve(app) as server, ThreadPoolExecutor(8) as clients:
        for _ in range(ROUNDS):
            answers = [answer.result() for answer in requests(server, clients)]
            sent += len(answers)
        wait_until(
            lambda: sum(route.requests for route in telemetry.diagnose().routes) == sent, what="all are measured"
        )
        return telemetry.diagnose()


def blocking(mended: bool) -> FastAPI:
    """A call that blocks the loop, while others are served."""
    app = FastAPI()

    @app.get("/rate")
    async def rate() -> None:
        await asyncio.sleep(0.6) if mended else time.sleep(0.6)

    @app.get("/products")
    async def products() -> None:
        for _ in range(10):
            await asyncio.sleep(0.03)

    return app


def served_while_blocked(server: Served, clients: ThreadPoolExecutor) -> Sequence[Any]:
    """Three requests that have begun when the loop is blocked."""
    others = [clients.submit(server.get, "/products") for _ in range(3)]
    time.sleep(0.15)
    return [*others, clients.submit(server.get, "/rate")]


def pausing(engine: Engine) -> Engine:
    """An engine whose database takes its time: `SELECT pause(seconds)`."""

    @event.listens_for(engine, "connect")
    def add_function(connection: Any, _record: object) -> None:
        connection.create_function("pause", 1, time.sleep)

    return engine


def full_pool(mended: bool) -> FastAPI:
    """Each request keeps the only connection during a slow call."""
    app = FastAPI()
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=8 if mended else 1, max_overflow=0)

    @app.get("/pay")
    def pay() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            time.sleep(0.3)

    return app


def at_once(server: Served, clients: ThreadPoolExecutor) -> Sequence[Any]:
    """Four requests that want a connection."""
    return [clients.submit(server.get, "/pay") for _ in range(4)]


def repeating(mended: bool) -> FastAPI:
    """A statement for each of thirty items."""
    app = FastAPI()
    engine = pausing(create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}))

    @app.get("/items")
    def items() -> None:
        with engine.connect() as connection:
            for _ in range(1 if mended else 30):
                connection.execute(text("SELECT pause(0.02)"))
        time.sleep(0.1)

    return app


def without_index(mended: bool) -> FastAPI:
    """A statement that takes long."""
    app = FastAPI()
    engine = pausing(create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}))

    @app.get("/items")
    def items() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT pause(0.01)" if mended else "SELECT pause(0.9)"))
        time.sleep(0.1)

    return app


def busy_pool(mended: bool) -> FastAPI:
    """Each request keeps the only connection for as long as its slow statement takes."""
    app = FastAPI()
    shared = {"check_same_thread": False}
    engine = pausing(create_engine("sqlite://", connect_args=shared, poolclass=QueuePool, pool_size=1, max_overflow=0))

    @app.get("/pay")
    def pay() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT pause(0.01)" if mended else "SELECT pause(0.6)"))

    return app


def one(server: Served, clients: ThreadPoolExecutor) -> Sequence[Any]:
    """One request."""
    return [clients.submit(server.get, "/items")]


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize(
    ("make", "requests", "kind"),
    [
        (blocking, served_while_blocked, "blocking_call"),
        (full_pool, at_once, "pool_wait"),
        (repeating, one, "n_plus_one"),
        (without_index, one, "slow_query"),
        (busy_pool, at_once, "slow_query"),
    ],
)
def test_the_first_remedy_saves_what_was_said(make: Callable[[bool], FastAPI], requests: Round, kind: str) -> None:
    before, after = (measured(make, requests, mended=mended) for mended in (False, True))
    first = before.findings[0]
    assert first.kind == kind
    assert kind in before.advice
    took, takes = (sum(route.seconds for route in report.routes) for report in (before, after))
    # its consequences are saved with it
    assert len(before.findings) == 1
    assert before.savings[first.fingerprint] == pytest.approx(took - takes, rel=EXACT)

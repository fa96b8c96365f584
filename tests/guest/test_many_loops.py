"""One app on several event loops: two `TestClient`s with lifespans, two servers in threads.

Each loop has its own monitors, which end with it; those of the process run once.
"""

import asyncio
import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.trace import SpanKind

from otel_fastperf import Settings, Telemetry, setup_telemetry
from tests.serving import serve, wait_until
from tests.threads import new_threads


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def root() -> int:
        return 1

    return app


@pytest.fixture
def telemetry(app: FastAPI) -> Iterator[Telemetry]:
    with setup_telemetry(app, settings=Settings(loop={"start_after": 0.0})) as telemetry:
        yield telemetry


def requests(telemetry: Telemetry) -> int:
    return sum(span.kind is SpanKind.SERVER for span in telemetry.spans())


def watchdogs(before: list[threading.Thread]) -> int:
    return len(new_threads(before, name="otel_fastperf-watchdog"))


def collections(telemetry: Telemetry) -> float:
    list(telemetry.metrics.refresh())
    families = [each for each in telemetry.metrics.registry.collect() if each.name == "fastperf_gc_pause_seconds"]
    return sum(each.value for family in families for each in family.samples if each.name.endswith("_count"))


def test_two_clients_in_turns_have_one_watchdog_each(app: FastAPI, telemetry: Telemetry) -> None:
    before = threading.enumerate()
    with TestClient(app) as user, TestClient(app) as admin:
        for _ in range(50):
            assert user.get("/").json() == admin.get("/").json() == 1
        assert watchdogs(before) == 2
    wait_until(lambda: not watchdogs(before), what="they end with their loops")
    assert requests(telemetry) == 100


def test_the_app_is_observed_until_its_last_lifespan_ends(app: FastAPI, telemetry: Telemetry) -> None:
    with TestClient(app) as user:
        with TestClient(app) as admin:
            admin.get("/")
        user.get("/")
    assert requests(telemetry) == 2


@pytest.mark.parametrize("ends", ["the first", "the second"])
def test_a_collection_counts_once_whichever_loop_ends(app: FastAPI, telemetry: Telemetry, ends: str) -> None:
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(TestClient(app))
        second.enter_context(TestClient(app))

        def counted() -> float:
            before = collections(telemetry)
            gc.collect()
            return collections(telemetry) - before

        gc.disable()
        try:
            assert counted() == 1
            (first if ends == "the first" else second).close()
            # the other loop takes the monitors of the process over
            wait_until(lambda: counted() == 1, what="collections are counted")
        finally:
            gc.enable()


def test_two_servers_in_threads(app: FastAPI, telemetry: Telemetry) -> None:
    before = threading.enumerate()
    with serve(app) as first, serve(app) as second:
        for _ in range(5):
            assert first.get("/").status == second.get("/").status == 200
        assert watchdogs(before) == 2
    wait_until(lambda: not watchdogs(before), what="they end with their loops")
    assert requests(telemetry) == 10


def test_loops_without_a_lifespan_leave_nothing(
    app: FastAPI, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "asyncio")
    before = threading.enumerate()
    client = TestClient(app)
    for _ in range(20):
        assert client.get("/").json() == 1
    # loops whose owner cancels no task
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(_asked(app))
        loop.close()
    gc.collect()
    wait_until(lambda: not watchdogs(before), what="they end with their loops")
    assert requests(telemetry) == 23
    assert not [record for record in caplog.records if "destroyed" in record.getMessage()]


async def _asked(app: FastAPI) -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "scheme": "http",
    }

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    async def send(_message: object) -> None:
        pass

    await app(scope, receive, send)

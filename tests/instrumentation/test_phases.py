"""The time budget of real requests: each segment is correct, and together they add up to the span."""

import asyncio
import gc
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio.to_thread
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, routing
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Route

from otel_fastperf import Settings, Telemetry, setup_telemetry
from otel_fastperf.instrumentation.other_telemetry import native_config
from tests.serving import Served, serve, wait_until

PREFIX = "fastperf.time."


class Item(BaseModel):
    name: str


def shop() -> FastAPI:  # noqa: C901 - a list of small routes
    app, items = FastAPI(), [{"name": str(number)} for number in range(60_000)]

    async def dependency() -> int:
        await asyncio.sleep(0.03)
        return 7

    def sync_dependency() -> int:
        time.sleep(0.03)
        return 7

    @app.get("/async")
    async def plain(seven: int = Depends(dependency)) -> int:
        await asyncio.sleep(0.05)
        return seven

    @app.get("/sync")
    def sync(seven: int = Depends(sync_dependency)) -> int:
        time.sleep(0.05)
        return seven

    @app.get("/large", response_model=list[Item])
    async def large() -> list[dict[str, str]]:
        return items

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(5):
                await asyncio.sleep(0.02)
                yield b"piece"

        return StreamingResponse(pieces())

    @app.get("/response")
    async def response() -> JSONResponse:
        await asyncio.sleep(0.02)
        return JSONResponse({"ok": True})

    @app.get("/collect")
    async def collect() -> None:
        await asyncio.sleep(0.01)
        gc.collect()

    @app.get("/refused")
    async def refused() -> None:
        raise HTTPException(409)

    @app.get("/boom")
    async def boom() -> None:
        await asyncio.sleep(0.02)
        raise ValueError

    return app


@contextmanager
def observed(app: FastAPI, **settings: Any) -> Iterator[tuple[Served, Telemetry]]:
    with setup_telemetry(app, settings=Settings(**settings)) as telemetry, serve(app) as server:
        yield server, telemetry


def budget(telemetry: Telemetry, number: int = 1) -> dict[str, float]:
    """Seconds by segment of the newest request; they add up to its span."""
    wait_until(lambda: len(telemetry.spans()) >= number, what="the request's span")
    span = telemetry.spans()[-1]
    assert span.end_time is not None
    assert span.start_time is not None
    duration = (span.end_time - span.start_time) / 1e9
    spent = segments(span)
    assert sum(spent.values()) == pytest.approx(duration, rel=0.001, abs=2e-6)
    return spent


def segments(span: ReadableSpan) -> dict[str, float]:
    attributes = (span.attributes or {}).items()
    return {name.removeprefix(PREFIX): float(value) for name, value in attributes if name.startswith(PREFIX)}  # type: ignore[arg-type]


def lasted(seconds: float, segment: str, spent: dict[str, float]) -> bool:
    """True if a segment is no shorter than a sleep in it; a timer fires up to a millisecond early.

    A busy machine may block the event loop or stretch a collection meanwhile: those segments take their time from it.
    It does not contain another segment's sleep: all add up to the span, so the other one would be too short.
    """
    return spent[segment] + spent.get("loop_wait", 0.0) + spent.get("gc", 0.0) >= seconds - 0.002


def test_dependencies_and_endpoint_are_separate_segments() -> None:
    with observed(shop()) as (server, telemetry):
        server.get("/async")
        spent = budget(telemetry)
    assert lasted(0.03, "dependencies_await", spent)
    assert lasted(0.05, "handler_await", spent)


def test_dependencies_and_endpoint_in_threads_are_separate_segments() -> None:
    with observed(shop()) as (server, telemetry):
        server.get("/sync")
        spent = budget(telemetry)
    assert lasted(0.03, "dependencies", spent)
    assert lasted(0.05, "handler", spent)


def test_serialising_the_return_value_is_a_segment() -> None:
    with observed(shop()) as (server, telemetry):
        server.get("/large")
        spent = budget(telemetry)
    assert spent["serialization"] > spent["handler"]


def test_the_chunks_of_a_stream_are_handler_time() -> None:
    with observed(shop()) as (server, telemetry):
        server.get("/stream")
        assert lasted(0.1, "handler_await", budget(telemetry))


@pytest.mark.parametrize("path", ["/response", "/refused", "/boom", "/nothing", "/async"])
def test_the_segments_add_up_however_the_request_ends(path: str) -> None:
    app = shop()

    class Through(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            return await call_next(request)

    app.add_middleware(Through)
    with observed(app) as (server, telemetry):
        server.get(path)
        assert budget(telemetry)


def test_waiting_for_a_slow_client_is_not_handler_time() -> None:
    app, reading = FastAPI(), threading.Event()

    @app.post("/upload")
    async def upload(request: Request) -> int:
        reading.set()
        return len(await request.body())

    with observed(app) as (server, telemetry):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\nab")
            assert reading.wait(20)
            time.sleep(0.3)
            client.sendall(b"cd")
            client.recv(1000)
        spent = budget(telemetry)
    assert lasted(0.2, "send", spent)
    assert spent["handler"] < spent["send"]


def test_waiting_for_a_thread_is_a_segment_and_a_finding() -> None:
    app, go_on = FastAPI(), threading.Event()

    @app.get("/limit")
    async def limit() -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 1

    @app.get("/sync")
    def sync() -> None:
        go_on.wait(20)

    with observed(app) as (server, telemetry):
        server.get("/limit")
        threads = [threading.Thread(target=server.get, args=("/sync",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: telemetry.metrics.active_requests.total() == 4, what="all requests")
        time.sleep(0.2)
        go_on.set()
        for thread in threads:
            thread.join()
        wait_until(lambda: len(telemetry.spans()) == 5, what="all spans")
        waits = [float((span.attributes or {}).get(f"{PREFIX}threadpool_wait", 0)) for span in telemetry.spans()]  # type: ignore[arg-type]
        assert max(waits) > 0.06
        findings = [finding for finding in telemetry.findings() if finding.kind == "threadpool_wait"]
    assert findings
    assert findings[0].route == "/sync"
    assert findings[0].call_site is not None
    assert findings[0].call_site.function.endswith("sync")
    assert findings[0].evidence["limit"] == 1


def test_the_time_counters_add_up_to_the_durations() -> None:
    with observed(shop()) as (server, telemetry):
        for path in ("/async", "/sync", "/stream", "/response"):
            server.get(path)
        wait_until(lambda: len(telemetry.spans()) == 4, what="all spans")
        totals: dict[str, float] = {}
        for family in telemetry.metrics.registry.collect():
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    spent, lasted = totals["fastperf_request_time_seconds_total"], totals["http_server_request_duration_seconds_sum"]
    assert spent == pytest.approx(lasted, rel=0.001)


def test_a_plain_starlette_route_has_handler_time_only() -> None:
    async def endpoint(_request: Request) -> JSONResponse:
        await asyncio.sleep(0.02)
        return JSONResponse({})

    app = FastAPI(routes=[Route("/plain", endpoint)])
    with observed(app) as (server, telemetry):
        server.get("/plain")
        spent = budget(telemetry)
    assert lasted(0.02, "handler_await", spent)
    assert not {"dependencies", "dependencies_await"} & spent.keys()


@pytest.mark.parametrize("source", ["native", "contrib"])
def test_the_span_of_another_instrumentation_has_the_budget_too(source: str) -> None:
    app = shop()
    if source == "native" and native_config(app) is None:
        pytest.skip("this FastAPI has no telemetry of its own")
    telemetry = setup_telemetry(app, settings=Settings(server_span=source))
    with telemetry, TestClient(app) as client:
        client.get("/async")
        span = next(span for span in telemetry.spans() if span.kind.name == "SERVER")
        spent = segments(span)
        assert lasted(0.05, "handler_await", spent)
        assert lasted(0.03, "dependencies_await", spent)


def test_shutdown_restores_the_patched_functions() -> None:
    def functions() -> list[Any]:
        return [*map(vars(routing).get, ("solve_dependencies", "run_endpoint_function")), anyio.to_thread.run_sync]

    before = functions()
    with observed(shop()) as (server, _):
        assert not set(functions()) & set(before)
        server.get("/async")
    assert functions() == before


def test_a_thread_may_be_asked_for_in_each_way_that_anyio_allows() -> None:
    app = FastAPI()

    @app.get("/")
    async def threads() -> list[int]:
        return [
            await anyio.to_thread.run_sync(func=lambda: 1),
            await anyio.to_thread.run_sync(int, "2", abandon_on_cancel=True),
            await anyio.to_thread.run_sync(lambda: 3, limiter=anyio.CapacityLimiter(1)),
        ]

    with setup_telemetry(app), TestClient(app) as client:
        assert client.get("/").json() == [1, 2, 3]

"""`hypercorn -k trio`: the app starts and serves the same; `describe()` names what needs asyncio."""

from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry.trace import SpanKind

from otel_fastperf import Settings, setup_telemetry

trio = pytest.importorskip("trio", reason="trio is not installed: pip install trio")


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }


async def _status(app: FastAPI, path: str) -> int:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(_scope(path), receive, send)
    return int(sent[0]["status"])


def shop() -> FastAPI:
    app = FastAPI()

    @app.get("/async")
    async def in_loop() -> None:
        await trio.sleep(0)

    @app.get("/def")
    def in_thread() -> None:
        pass

    return app


async def _served(app: FastAPI, paths: list[str], *, lifespan: bool) -> list[int]:
    if not lifespan:
        return [await _status(app, path) for path in paths]
    async with app.router.lifespan_context(app):
        return [await _status(app, path) for path in paths]


@pytest.mark.parametrize("lifespan", [False, True])
def test_an_app_under_trio(caplog: pytest.LogCaptureFixture, *, lifespan: bool) -> None:
    app, run = shop(), partial[Any](trio.run)
    paths = ["/async", "/def", "/nowhere", "/metrics", "/debug/fastperf"]
    with setup_telemetry(app, settings=Settings(metrics={"enabled": True})) as telemetry:
        serve: Callable[[], Awaitable[list[int]]] = partial(_served, app, paths, lifespan=lifespan)
        assert run(serve) == [200, 200, 404, 200, 200]
        assert [span.name for span in telemetry.spans() if span.kind is SpanKind.SERVER] == [
            "GET /async",
            "GET /def",
            "GET",
        ]
        lines = dict(line.split(": ", 1) for line in telemetry.describe().splitlines())
        for name in ("event loop", "thread pool", "memory", "workers"):
            assert lines[name] == "off, needs asyncio, and the server runs trio"
        assert lines["caches"].endswith("in part, since the server runs trio")
        assert lines["requests"].startswith("on")
        assert len([record for record in caplog.records if "runs trio" in record.getMessage()]) == 1
        failures = [each for each in telemetry.metrics.registry.collect() if each.name == "fastperf_telemetry_errors"]
        assert [sample for family in failures for sample in family.samples] == []

"""The time to the first byte of a response's body, by route, for those who ask for it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import FileResponse, Response, StreamingResponse
from fastapi.testclient import TestClient

from otel_fastperf import Settings, Telemetry, setup_telemetry

FAMILY = "fastperf_request_time_to_first_byte_seconds"
#: seconds that the app waits before each piece; what is awaited never ends earlier
WAIT = 0.05


def shop(file: Path) -> FastAPI:
    app = FastAPI()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b""
            for _ in range(4):
                await asyncio.sleep(WAIT)
                yield b"token"

        return StreamingResponse(parts())

    @app.get("/json")
    async def json() -> int:
        return 1

    @app.get("/empty")
    async def empty() -> Response:
        return Response(status_code=204)

    @app.get("/file")
    async def sent() -> FileResponse:
        return FileResponse(file)

    return app


@contextmanager
def observed(tmp_path: Path, **metrics: Any) -> Iterator[tuple[TestClient, Telemetry]]:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    app = shop(file)
    with setup_telemetry(app, settings=Settings(metrics=metrics)) as telemetry, TestClient(app) as client:
        yield client, telemetry


def value(telemetry: Telemetry, name: str, route: str) -> float | None:
    labels = {"http_request_method": "GET", "http_route": route}
    found: float | None = telemetry.metrics.registry.get_sample_value(name, labels)
    return found


def test_a_stream_s_first_byte_comes_before_its_last(tmp_path: Path) -> None:
    with observed(tmp_path, time_to_first_byte=True) as (client, telemetry):
        assert client.get("/stream").text == "token" * 4
        (span,) = telemetry.spans()
        assert span.attributes is not None
        assert span.end_time is not None
        assert span.start_time is not None
        first = value(telemetry, f"{FAMILY}_sum", "/stream")
        assert value(telemetry, f"{FAMILY}_count", "/stream") == 1
    assert first == span.attributes["fastperf.time_to_first_byte"]
    duration = (span.end_time - span.start_time) / 1e9
    assert first is not None
    # after the first wait, which follows the headers, and before the other three
    assert WAIT * 0.9 < first < duration - 2.7 * WAIT


@pytest.mark.parametrize("path", ["/json", "/empty", "/file"])
def test_every_response_is_measured_once(path: str, tmp_path: Path) -> None:
    with observed(tmp_path, time_to_first_byte=True) as (client, telemetry):
        client.get(path)
        assert value(telemetry, f"{FAMILY}_count", path) == 1
        first = value(telemetry, f"{FAMILY}_sum", path)
        assert first is not None
        assert first > 0


def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    with observed(tmp_path) as (client, telemetry):
        client.get("/json")
        assert FAMILY not in {family.name for family in telemetry.metrics.registry.collect()}

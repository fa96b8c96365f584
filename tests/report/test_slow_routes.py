"""A slow route without a finding says so, in every format of the debug endpoint; what is slow is a setting."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from otel_fastperf import Settings, setup_telemetry
from otel_fastperf.cli.main import main
from tests.serving import serve, wait_until

REQUESTS = 3
PATH = "/debug/fastperf"


def polling() -> FastAPI:
    """Waits for something that is no known reason."""
    app = FastAPI()

    @app.get("/job")
    async def job() -> None:
        await asyncio.sleep(0.3)

    return app


def settings(slow_route: float) -> Settings:
    quick = {"loop": {"start_after": 0}, "memory": {"enabled": False}}
    return Settings(findings={"slow_route": slow_route}, **quick)


def test_a_slow_route_without_a_finding_says_what_it_awaits(capsys: pytest.CaptureFixture[str]) -> None:
    app = polling()
    with setup_telemetry(app, settings=settings(0.2)) as telemetry, serve(app) as server:
        for _ in range(REQUESTS):
            server.get("/job")
        wait_until(lambda: [each.requests for each in telemetry.diagnose().routes] == [REQUESTS], what="all are known")
        text, html, report = (server.get(f"{PATH}?format={form}").body.decode() for form in ("text", "html", "json"))
        assert main(["doctor", server.url]) == 0
    doctor = capsys.readouterr().out
    for said in (text, html, doctor):
        assert "1 slow route without a known reason" in said
        assert "no bottleneck was seen" not in said.lower()
        assert "slow, and none of the known reasons" in " ".join(said.split())
        assert "awaiting asyncio sleep" in " ".join(said.split())
    (route,) = json.loads(report)["routes"]
    assert (route["slow"], route["unexplained"]) == (True, True)
    assert json.loads(report)["findings"] == []


def test_how_slow_is_slow_is_a_setting() -> None:
    app = polling()
    with setup_telemetry(app, settings=settings(5.0)) as telemetry, serve(app) as server:
        for _ in range(REQUESTS):
            server.get("/job")
        wait_until(lambda: [each.requests for each in telemetry.diagnose().routes] == [REQUESTS], what="all are known")
        text = server.get(f"{PATH}?format=text").body.decode()
    assert "no bottleneck was seen" in text
    assert "none of the known reasons" not in text


def test_an_event_stream_lasts_and_is_not_slow() -> None:
    app = FastAPI()

    async def pieces() -> AsyncIterator[str]:
        for number in range(3):
            await asyncio.sleep(0.1)
            yield f"data: {number}\n\n"

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(pieces(), media_type="text/event-stream")

    @app.get("/export")
    async def export() -> StreamingResponse:
        return StreamingResponse(pieces(), media_type="text/csv")

    with setup_telemetry(app, settings=settings(0.2)) as telemetry, serve(app) as server:
        for _ in range(REQUESTS):
            server.get("/events")
            server.get("/export")
        wait_until(
            lambda: [each.requests for each in telemetry.diagnose().routes] == [REQUESTS] * 2, what="all are known"
        )
        slow = {route.route: route.slow for route in telemetry.diagnose().routes}
    assert slow == {"/events": False, "/export": True}

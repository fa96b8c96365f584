"""Where the samples of slow requests are shown: spans, metric, report."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from otel_fastperf import Telemetry, setup_telemetry
from otel_fastperf.report.formats import report_as
from otel_fastperf.report.model import Report
from otel_fastperf.settings import Settings
from tests.serving import serve, wait_until

SLOW = 0.3


async def rest() -> None:
    """The line that the shop's slow route waits at."""
    await asyncio.sleep(SLOW)


@pytest.fixture(scope="module")
def telemetry() -> Iterator[Telemetry]:
    """The telemetry of an app that has served a slow request with GET, and quick ones with POST and GET."""
    app = FastAPI()

    @app.get("/items")
    async def items() -> None:
        await rest()

    @app.post("/items")
    async def add() -> None:
        pass

    @app.get("/quick")
    async def quick() -> None:
        pass

    ended: list[object] = []
    with setup_telemetry(app, settings=Settings(traces={"exporter": "none"})) as given:
        given.add_request_listener(ended.append)
        with serve(app) as server:
            server.get("/items")
            server.get("/items", method="POST")
            server.get("/quick")
            wait_until(lambda: len(ended) == 3)
            yield given


def spans(telemetry: Telemetry) -> dict[str, Any]:
    return {span.name: span for span in telemetry.spans()}


def test_the_span_of_a_slow_request_has_an_event_for_what_it_awaited(telemetry: Telemetry) -> None:
    span = spans(telemetry)["GET /items"]
    (event,) = span.events
    assert event.name == "fastperf.await"
    assert event.timestamp == span.end_time
    assert event.attributes["fastperf.await.activity"] == "awaiting"
    assert event.attributes["fastperf.await.library"] == "asyncio"
    assert event.attributes["fastperf.await.function"] == "sleep"
    assert 0.5 * SLOW < event.attributes["fastperf.await.seconds"] <= (span.end_time - span.start_time) / 1e9
    assert event.attributes["code.file.path"] == __file__
    assert event.attributes["code.line.number"] == rest.__code__.co_firstlineno + 2
    assert event.attributes["code.function.name"] == "rest"


def test_the_span_of_a_quick_request_has_none(telemetry: Telemetry) -> None:
    assert not spans(telemetry)["POST /items"].events
    assert not spans(telemetry)["GET /quick"].events


def test_the_metric_has_library_and_function_but_no_line(telemetry: Telemetry) -> None:
    samples = telemetry.metrics.samples(lambda error: pytest.fail(str(error)))
    found = [(labels, value) for name, labels, value in samples if name == "fastperf_request_await_seconds_total"]
    ((labels, seconds),) = found
    assert labels == {
        "http_request_method": "GET",
        "http_route": "/items",
        "activity": "awaiting",
        "library": "asyncio",
        "function": "sleep",
    }
    assert seconds > 0.5 * SLOW


def test_the_report_names_the_line_at_the_route_and_method_that_waits(telemetry: Telemetry) -> None:
    report = Report.from_json(telemetry.diagnose().to_json())
    awaited = {f"{route.method} {route.route}": route.awaited for route in report.routes}
    assert awaited["POST /items"] == awaited["GET /quick"] == ()
    (line,) = awaited["GET /items"]
    assert (
        line.text == f"awaiting asyncio sleep at awaiting/test_reporting.py:{rest.__code__.co_firstlineno + 2} in rest"
    )
    assert (line.library, line.function, line.computing) == ("asyncio", "sleep", False)
    assert line.call_site is not None
    assert line.call_site.file == __file__
    assert 0.5 < line.share <= 1.0


@pytest.mark.parametrize("form", ["text", "html"])
def test_the_report_for_people_says_so_too(telemetry: Telemetry, form: str) -> None:
    report = telemetry.diagnose()
    (line,) = next(route.awaited for route in report.routes if route.awaited)
    shown = report_as(report, form)
    said = f"{line.share:.0%} awaiting asyncio sleep at awaiting/test_reporting.py"
    assert said in " ".join(shown.split())

"""An app that sends invalid ASGI messages gets the server's verdict on them, not that of telemetry."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otel_fastperf import Settings, setup_telemetry
from otel_fastperf.metrics import Metrics
from tests.serving import serve

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Message = {"type": "http.response.body"}
ACCEPT: Message = {"type": "websocket.accept"}

HTTP: dict[str, list[Message]] = {
    "status as text": [{**START, "status": "404"}, BODY],
    "status as bytes": [{**START, "status": b"404"}, BODY],
    "status None": [{**START, "status": None}, BODY],
    "no status": [{"type": "http.response.start", "headers": []}, BODY],
    "body None": [START, {**BODY, "body": None}],
    "body a number": [START, {**BODY, "body": 5}],
}
WEBSOCKET: dict[str, list[Message]] = {
    "denied without a status": [{"type": "websocket.http.response.start", "headers": []}],
    "denied with text": [{"type": "websocket.http.response.start", "headers": [], "status": "403"}],
    "closed with None": [ACCEPT, {"type": "websocket.close", "code": None}],
    "closed with a list": [ACCEPT, {"type": "websocket.close", "code": []}],
}
CASES = [*(("http", name) for name in HTTP), *(("websocket", name) for name in WEBSOCKET)]


def sender(messages: list[Message]) -> ASGIApp:
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for message in messages:
            await send(message)

    return app


def sending(messages: list[Message]) -> FastAPI:
    app = FastAPI()
    app.mount("/odd", sender(messages))
    return app


async def exchange(app: FastAPI, kind: str) -> list[Any]:
    """What a server that accepts everything gets, and what the app raises."""
    got: list[Any] = []

    async def receive() -> Message:
        return {"type": "http.request"} if kind == "http" else {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        got.append(message)

    scope = {"type": kind, "method": "GET", "path": "/odd/", "query_string": b"", "headers": [], "root_path": ""}
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    try:
        await app({**scope, "scheme": "http", "asgi": {"version": "3.0"}, "extensions": extensions}, receive, send)
    except Exception as error:  # noqa: BLE001 - is compared
        got.append(repr(error))
    return got


def total(metrics: Metrics, name: str, **labels: str) -> float:
    def fail(error: Exception) -> None:
        raise error

    return sum(
        value for sample, found, value in metrics.samples(fail) if sample == name and labels.items() <= found.items()
    )


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "name"), CASES)
async def test_an_invalid_message_reaches_the_server_and_is_no_failure_of_telemetry(kind: str, name: str) -> None:
    messages = (HTTP if kind == "http" else WEBSOCKET)[name]
    expected = await exchange(sending(messages), kind)
    app = sending(messages)
    with setup_telemetry(app, settings=Settings()) as telemetry:
        assert await exchange(app, kind) == expected
        failures = total(telemetry.metrics, "fastperf_telemetry_errors_total")
    assert failures == 0


@pytest.mark.anyio
async def test_a_websocket_closed_without_a_code_is_closed_orderly() -> None:
    app = sending(WEBSOCKET["closed with None"])
    with setup_telemetry(app, settings=Settings()) as telemetry:
        await exchange(app, "websocket")
        name = "fastperf_websocket_connection_duration_seconds_count"
        assert total(telemetry.metrics, name, error_type="") == 1


def test_an_answer_that_the_server_completes_is_no_error() -> None:
    app = sending(HTTP["body None"])
    with setup_telemetry(app, settings=Settings()) as telemetry, serve(app, log_level="critical") as server:
        assert server.get("/odd/").status == 200
        name = "http_server_request_duration_seconds_count"
        assert total(telemetry.metrics, name) == total(telemetry.metrics, name, error_type="") == 1

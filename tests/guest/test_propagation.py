"""What a caller sends along reaches the handler, and the services that it calls, whatever propagators are set."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_fastperf import setup_telemetry

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SENT = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01", "baggage": "tenant=acme,plan=gold", "x-region": "north"}


class RegionPropagator(TextMapPropagator):
    """A propagator of a company: a value of its own in the context."""

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        found = getter.get(carrier, "x-region")
        return {**(context or {}), "region": found[0]} if found else context or Context()  # type: ignore[return-value]

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        region = _value(context)
        if region:
            setter.set(carrier, "x-region", region)

    @property
    def fields(self) -> set[str]:
        return {"x-region"}


def _value(given: Context | None) -> str:
    return str(context.get_value("region", given) or "")


@pytest.fixture(autouse=True)
def _propagators() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(
        CompositePropagator([RegionPropagator(), TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    )
    yield
    propagate.set_global_textmap(before)


def seen() -> dict[str, Any]:
    """What a handler sees, and what a client library would send on."""
    sent: dict[str, str] = {}
    propagate.inject(sent)
    trace_id = trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)
    return {"baggage": dict(baggage.get_all()), "region": _value(None), "trace_id": trace_id, "sent": sent}


def app() -> FastAPI:
    app = FastAPI()

    @app.get("/async")
    async def in_loop() -> dict[str, Any]:
        return seen()

    @app.get("/def")
    def in_thread() -> dict[str, Any]:
        return seen()

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json(seen())
        await websocket.close()

    return app


@pytest.mark.parametrize("path", ["/async", "/def", "/ws"])
@pytest.mark.parametrize("sampled", [True, False])
def test_all_that_propagators_read_is_in_the_handler_and_goes_on(path: str, sampled: bool) -> None:
    headers = SENT | ({} if sampled else {"traceparent": SENT["traceparent"][:-1] + "0"})
    observed = app()
    with setup_telemetry(observed), TestClient(observed) as client:
        if path == "/ws":
            with client.websocket_connect(path, headers=headers) as websocket:
                got = websocket.receive_json()
        else:
            got = client.get(path, headers=headers).json()
        # another request gets nothing of it
        assert client.get("/async").json()["baggage"] == {}
        assert client.get("/async").json()["region"] == ""
    assert got["baggage"] == {"tenant": "acme", "plan": "gold"}
    assert (got["region"], got["trace_id"]) == ("north", TRACE_ID)
    assert got["sent"]["baggage"] == "tenant=acme,plan=gold"
    assert got["sent"]["x-region"] == "north"
    assert got["sent"]["traceparent"].startswith(f"00-{TRACE_ID}-")
    assert got["sent"]["traceparent"].endswith(headers["traceparent"][-2:])

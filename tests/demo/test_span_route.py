"""`GET /demo/spans` serves finished spans for the summary."""

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.trace import SpanKind, Status, StatusCode

from demo.span_route import PATH, SpanRecord, add_spans_route
from tests.conftest import Probe

pytestmark = pytest.mark.anyio


async def spans_for(app: FastAPI, host: str) -> httpx.Response:
    transport = httpx.ASGITransport(app, client=(host, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        return await client.get(PATH)


async def test_a_span_keeps_the_parts_that_a_waterfall_needs(probe: Probe) -> None:
    tracer = probe.signals.tracer
    with tracer.start_as_current_span("GET /orders", kind=SpanKind.SERVER, start_time=1_000) as request:
        statement = tracer.start_span("SELECT orders", kind=SpanKind.CLIENT, start_time=2_000)
        statement.set_attributes({"error.type": "42P01", "db.query.summary": "SELECT orders"})
        statement.set_status(Status(StatusCode.ERROR))
        statement.end(3_500)
    app = FastAPI()
    add_spans_route(app, probe.spans)

    child, root = (SpanRecord(**span) for span in (await spans_for(app, "127.0.0.1")).json())
    assert (root.name, root.kind, root.start, root.parent_id, root.error) == ("GET /orders", "SERVER", 1_000, "", "")
    assert root.span_id == f"{request.get_span_context().span_id:016x}" == child.parent_id
    assert (child.trace_id, child.error, child.seconds) == (root.trace_id, "42P01", 1.5e-6)
    assert (root.statement, child.statement) == (False, True)


async def test_only_clients_on_this_machine_get_spans_and_the_schema_omits_the_route() -> None:
    app = FastAPI()
    add_spans_route(app, tuple)
    assert (await spans_for(app, "::1")).json() == []
    assert (await spans_for(app, "10.1.2.3")).status_code == 404
    assert PATH not in app.openapi()["paths"]

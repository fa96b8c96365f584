"""A shop with other telemetry than ours, and with `setup_telemetry` before it, after it or not at all.

Each case has a process of its own, since most of these libraries patch what they find. The processes are forked, which
takes a third of the time of starting them: `python -m tests.guest.wired CASES`, see `Case`.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool

from otel_fastperf import setup_telemetry

#: where `setup_telemetry` is called, seen from the other telemetry
Order = Literal["alone", "first", "last"]
#: after the requests: what arrived elsewhere than in an OTLP receiver
Arrived = Callable[[TestClient], list[str]]


@dataclass(frozen=True)
class Case:
    """One process: how it is wired, what its environment says, and the file for what arrived."""

    wiring: str
    order: Order
    answer: str
    environment: dict[str, str] = field(default_factory=dict)


def by_environment(_app: FastAPI) -> Arrived:
    """Nothing in the code: FastAPI's automatic configuration, or the agent."""
    return lambda _client: []


def sdk(_app: FastAPI) -> Arrived:
    """OpenTelemetry's SDK, which FastAPI's own telemetry uses."""
    provider = TracerProvider(resource=Resource.create({"place": "theirs"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
    return lambda _client: []


def contrib(app: FastAPI) -> Arrived:
    """The SDK, and contrib's instrumentation of the app."""
    arrived = sdk(app)
    FastAPIInstrumentor.instrument_app(app)
    return arrived


def logfire(app: FastAPI) -> Arrived:
    library = import_module("logfire")
    library.configure(send_to_logfire=False, console=False)
    library.instrument_fastapi(app)

    def arrived(_client: TestClient) -> list[str]:
        library.force_flush()
        return []

    return arrived


def sentry(_app: FastAPI) -> Arrived:
    library = import_module("sentry_sdk")
    received: list[str] = []

    class Kept(import_module("sentry_sdk.transport").Transport):  # type: ignore[misc]
        def capture_envelope(self, envelope: Any) -> None:
            for item in envelope.items:
                event = item.get_event() or item.get_transaction_event()
                if event is not None:
                    kind = event.get("type", "error")
                    received.append(f"{kind} {event.get('transaction')}")
                    received.extend(f"{kind} {event['transaction']}: {span['op']}" for span in event.get("spans", ()))

    library.init(dsn="http://key@127.0.0.1/1", traces_sample_rate=1.0, transport=Kept)

    def arrived(_client: TestClient) -> list[str]:
        library.flush()
        return received

    return arrived


def elastic(app: FastAPI) -> Arrived:
    library = import_module("elasticapm.contrib.starlette")
    received: list[str] = []

    def keep(kind: str, data: Any, *flush: Any) -> None:
        if kind in {"transaction", "span", "error"}:
            received.append(f"{kind} {data.get('name') or data['culprit']}")
        else:
            send(kind, data, *flush)

    quiet = {
        "TRANSPORT_CLASS": "elasticapm.transport.base.Transport",
        "CENTRAL_CONFIG": False,
        "CLOUD_PROVIDER": "none",
    }
    client = library.make_apm_client({"SERVICE_NAME": "shop", "METRICS_INTERVAL": "0s", **quiet})
    send, client._transport.queue = client._transport.queue, keep
    import_module("elasticapm").instrument()
    app.add_middleware(library.ElasticAPM, client=client)
    return lambda _client: received


def instrumentator(app: FastAPI) -> Arrived:
    import_module("prometheus_fastapi_instrumentator").Instrumentator().instrument(app).expose(app)
    return _counters_on_page


def starlette_exporter(app: FastAPI) -> Arrived:
    library = import_module("starlette_exporter")
    app.add_middleware(library.PrometheusMiddleware)
    app.add_route("/metrics", library.handle_metrics)
    return _counters_on_page


def _counters_on_page(client: TestClient) -> list[str]:
    lines = client.get("/metrics").text.splitlines()
    return [
        line for line in lines if line.startswith(("http_", "starlette_")) and ("_total{" in line or "_count{" in line)
    ]


def shop() -> FastAPI:
    """An app with spans and metrics of its own."""
    app = FastAPI()
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    tracer, sold = trace.get_tracer("shop"), metrics.get_meter("shop").create_counter("shop.sold")

    @app.get("/items/{item_id}")
    def item(item_id: int) -> int:
        with tracer.start_as_current_span("look up"), engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        sold.add(1)
        return item_id

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError

    return app


def serve_case(case: Case) -> None:
    """Wire the shop, send it some requests, and write what arrived."""
    os.environ.update(case.environment)
    app = shop()
    if case.order == "first":
        setup_telemetry(app)
    arrived = globals()[case.wiring](app)
    if case.order == "last":
        setup_telemetry(app)
    with TestClient(app, raise_server_exceptions=False) as client:
        answers = [client.get(path).status_code for path in ("/items/1", "/items/2", "/broken")]
        assert answers == [200, 200, 500]
        seen = arrived(client)
    Path(case.answer).write_text(json.dumps(sorted(seen)))


def main(cases: list[Case]) -> None:
    """Serve each case in a fork of this process, one after the other. Fails if one of them does."""
    for case in cases:
        child = os.fork()
        if not child:
            try:
                serve_case(case)
            except Exception:  # noqa: BLE001 - its process ends here
                traceback.print_exc()
                sys.exit(1)
            return  # ends this process as any other, so that exporters deliver
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{case} failed")


if __name__ == "__main__":
    main([Case(**each) for each in json.loads(sys.argv[1])])

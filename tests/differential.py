"""A service observed by contrib or by us. It gets a fixed list of requests and prints its spans as JSON.

python -m tests.differential contrib|ours
"""

import json
import os
import sys
from typing import Any

os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http,database"

from fastapi import APIRouter, FastAPI, HTTPException
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import StaticPool

from tests.serving import serve

#: (method, path, headers); the order is the order of the spans
CORPUS: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "/ping", {"User-Agent": "corpus/1"}),
    ("GET", "/api/items/7", {"User-Agent": "corpus/1"}),
    ("POST", "/api/items/7", {"User-Agent": "corpus/1"}),
    ("GET", "/api/items/seven", {"User-Agent": "corpus/1"}),
    ("HEAD", "/ping", {"User-Agent": "corpus/1"}),
    ("DELETE", "/ping", {"User-Agent": "corpus/1"}),
    ("BREW", "/ping", {"User-Agent": "corpus/1"}),
    ("GET", "/nothing", {"User-Agent": "corpus/1"}),
    ("GET", "/ping/", {"User-Agent": "corpus/1"}),
    ("GET", "/unavailable", {"User-Agent": "corpus/1"}),
    ("GET", "/boom", {"User-Agent": "corpus/1"}),
    ("GET", "/query?word=cats&token=secret", {"User-Agent": "corpus/1"}),
    ("GET", "/broken-query", {"User-Agent": "corpus/1"}),
    ("GET", "/ping", {"User-Agent": "corpus/1", "Host": "shop.example:8443"}),
    (
        "GET",
        "/ping",
        {"User-Agent": "corpus/1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    ),
    ("GET", "/mounted/ping", {"User-Agent": "corpus/1"}),
]


def service(engine: Engine) -> FastAPI:
    """A small service with typical endpoints."""
    app = FastAPI()
    router = APIRouter(prefix="/items")

    @app.get("/ping")
    async def ping() -> str:
        return "ok"

    @router.get("/{item_id}")
    async def item(item_id: int) -> int:
        return item_id

    @router.post("/{item_id}")
    def store(item_id: int) -> int:
        with engine.begin() as connection:
            connection.execute(
                text("INSERT INTO items (id, word) VALUES (:id, :word)"),
                [{"id": item_id + n, "word": "w"} for n in range(3)],
            )
        return item_id

    @app.get("/unavailable")
    async def unavailable() -> None:
        raise HTTPException(503)

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("boom")

    @app.get("/query")
    def query(word: str) -> int:
        with engine.connect() as connection:
            count = connection.execute(text("SELECT count(*) FROM items WHERE word = :word"), {"word": word})
            return int(count.scalar_one())

    @app.get("/broken-query")
    def broken_query() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT * FROM nowhere"))

    app.include_router(router, prefix="/api")
    sub = FastAPI()
    sub.get("/ping")(ping)
    app.mount("/mounted", sub)
    return app


def main(observer: str) -> None:
    """Observe the service, send the requests, print the spans."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE items (id INTEGER, word TEXT)"))
    app = service(engine)
    trace.set_tracer_provider(provider)
    if observer == "contrib":
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

        # only the version check of 0.66b1 rejects SQLAlchemy 2.1
        SQLAlchemyInstrumentor().instrument(engine=engine, skip_dep_check=True)
        FastAPIInstrumentor.instrument_app(app, exclude_spans=["send", "receive"])
    else:
        from otel_fastperf import setup_telemetry

        setup_telemetry(app)
    answers = []
    with serve(app, http="h11", log_level="critical") as server:
        for method, path, headers in CORPUS:
            exporter.clear()
            status = server.get(path, method=method, headers=headers).status
            host = f" at {headers['Host']}" if "Host" in headers else ""
            request = f"{method} {path}{host}"
            answers.append({"request": request, "port": server.port, "status": status, "spans": _finished(exporter)})
    json.dump(answers, sys.stdout)


def _finished(exporter: InMemorySpanExporter) -> list[dict[str, Any]]:
    from tests.serving import wait_until

    wait_until(
        lambda: any(span.kind.name == "SERVER" for span in exporter.get_finished_spans()), what="the SERVER span"
    )
    return [
        {
            "name": span.name,
            "kind": span.kind.name,
            "status": span.status.status_code.name,
            "parent": None if span.parent is None else span.parent.is_remote,
            "trace_id": format(span.context.trace_id, "032x"),
            "attributes": dict(span.attributes or {}),
            "events": [event.name for event in span.events],
        }
        for span in exporter.get_finished_spans()
    ]


if __name__ == "__main__":
    main(sys.argv[1])

"""A shop with the telemetry of one side of a migration page: `python -m tests.migration.sides CASES`, see `Side`.

Each side has a process of its own, since most of these libraries patch what they find. The processes are forked, which
takes a third of the time of starting them.
"""

import gzip
import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool

import otel_fastperf
from tests.otlp import Receiver

ROOT: Final = Path(__file__).parents[2]
PATHS: Final = ("/items/1", "/items/2", "/broken", "/nowhere")
STATUS: Final = [200, 200, 500, 404]
#: paths of pages with metrics; the second one is for ours if there is one of another library too
THEIRS: Final = "/metrics"
OURS: Final = "/ours"


@dataclass(frozen=True)
class Side:
    """One process: the page, which of its blocks of Python wire the shop, and the file for what arrived."""

    page: str
    blocks: tuple[int, ...]
    answer: str

    @property
    def code(self) -> str:
        """The code of the blocks."""
        code = blocks_of(self.page, "python")
        return "\n".join(code[number] for number in self.blocks)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that the page sets, for both sides."""
        return dict(re.findall(r"\b([A-Z_]+)=(\S+)", "\n".join(blocks_of(self.page, "sh"))))


def blocks_of(page: str, language: str) -> list[str]:
    """The blocks of code of a page, in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def serve_side(side: Side) -> None:
    """Wire the shop as the page says, send it some requests, and write what arrived, and where."""
    with Receiver() as receiver, sentry() as items:
        address, envelopes = items
        os.environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_SERVICE_NAME": "shop",
            "LOGFIRE_SEND_TO_LOGFIRE": "false",
            "LOGFIRE_CONSOLE": "false",
            "SENTRY_DSN": f"http://key@{address}/1",
            "OTEL_FASTPERF_LOOP_BLOCKED": "60",  # a busy machine has no part in the comparison
            "OTEL_FASTPERF_METRICS_PATH": OURS if len(side.blocks) > 1 else THEIRS,
            **side.environment,
        }
        app = shop()
        exec(compile(side.code, side.page, "exec"), {"app": app, "FastAPI": lambda: app})
        with TestClient(app, raise_server_exceptions=False) as client:
            assert [client.get(path).status_code for path in PATHS] == STATUS
            pages = [client.get(path) for path in (THEIRS, OURS)]
        deliver()
    spans = [[span.kind, span.name, *span.attributes] for span in receiver.spans]
    names = {metric.name for push in receiver.metrics for metric in metrics_of(push)}
    exposed = [page.text if page.status_code == 200 else "" for page in pages]
    told = {"pages": exposed, "spans": spans, "metrics": sorted(names), "sentry": envelopes}
    Path(side.answer).write_text(json.dumps(told))


def metrics_of(push: Any) -> Iterator[Any]:
    """The metrics of one push."""
    for resource in push.resource_metrics:
        for scope in resource.scope_metrics:
            yield from scope.metrics


def deliver() -> None:
    """Have every library send what it holds back."""
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider(), get_logger_provider()):
        getattr(provider, "shutdown", lambda: None)()
    if "sentry_sdk" in sys.modules:
        sys.modules["sentry_sdk"].flush()


@contextmanager
def sentry() -> Iterator[tuple[str, list[list[str]]]]:
    """A server that takes Sentry's envelopes: its address, and kind, name and operations of each item."""
    items: list[list[str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            for line in body.splitlines():
                event = json.loads(line)
                if "event_id" in event and "timestamp" in event:
                    spans = [span["op"] for span in event.get("spans", ())]
                    items.append([event.get("type", "error"), event["transaction"], *spans])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", items
        server.shutdown()


def shop() -> FastAPI:
    """The app of the pages."""
    app = FastAPI()
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

    @app.get("/items/{item_id}")
    def item(item_id: int) -> int:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        return item_id

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError

    return app


def main(sides: list[Side]) -> None:
    """Serve each side in a fork of this process, one after the other. Fails if one of them does."""
    for side in sides:
        child = os.fork()
        if not child:
            try:
                serve_side(side)
            except BaseException:  # noqa: BLE001 - its process ends here
                traceback.print_exc()
                os._exit(1)
            return
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{side} failed")


if __name__ == "__main__":
    import_module(otel_fastperf.setup_telemetry.__module__)  # with all that it needs
    main([Side(page, tuple(blocks), answer) for page, blocks, answer in json.loads(sys.argv[1])])

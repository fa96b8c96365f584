"""What a tier of the stack carries: CPU time, bytes on disk and memory of its real servers, per span and per series.

    python -m benchmarks.capacity            all of it, about 4 minutes
    python -m benchmarks.capacity traces --spans 200000
    python -m benchmarks.capacity metrics --targets 200

Traces: requests of a real app with three statements each, as our exporter encodes them, are sent with new ids to the
shipped collector, which masks, counts and forwards them to the shipped Jaeger with Badger. CPU time is that of the
server's process in /proc, so other load changes it little. Metrics: the real page of that app, scraped by Prometheus
from many targets (memory), and 120 pages of it under load, 15 s apart, as a block (disk).

The servers are those that `make servers` builds. `docs/scale.md` has the figures and what follows from them.
"""

import argparse
import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode
from urllib.request import urlopen

from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool

from otel_fastperf import Settings, Telemetry, setup_telemetry
from tools.servers import built

_ROOT: Final = Path(__file__).parent.parent
_DEPLOY: Final = _ROOT / "deploy"
_STATEMENTS: Final = 3
#: spans that may wait for Jaeger; a third of what the collector's queue has room for
_UNDER_WAY: Final = 20_000
#: for Jaeger to take them, on a machine with much else to do
_DRAIN_SECONDS: Final = 600.0
_READY_SECONDS: Final = 60.0
_TICK: Final = os.sysconf("SC_CLK_TCK")
#: samples of a full chunk in Prometheus' blocks, and the distance of two scrapes
_SAMPLES: Final = 120
_INTERVAL_SECONDS: Final = 15


class Measured(NamedTuple):
    """One figure."""

    name: str
    value: float
    unit: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns 1 if a server has not been built."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", choices=[[], "traces", "metrics"], metavar="traces|metrics")
    parser.add_argument("--spans", type=int, default=200_000, help="spans to send (default: 200000)")
    parser.add_argument("--targets", type=int, default=200, help="instances to scrape (default: 200)")
    options = parser.parse_args(arguments)
    missing = [name for name in ("collector", "jaeger", "prometheus") if built(name) is None]
    if missing:
        sys.stderr.write(f"not built: {', '.join(missing)}. Remedy: make servers\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="fastperf-capacity-") as scratch:
        for what in options.what or ("traces", "metrics"):
            folder = Path(scratch) / what
            folder.mkdir()
            found = traces(folder, options.spans) if what == "traces" else metrics(folder, options.targets)
            for name, value, unit in found:
                print(f"{name:<58}{value:>12,.{0 if value >= 100 else 1}f} {unit}", flush=True)  # noqa: PLR2004 - digits
    return 0


# Traces


def traces(folder: Path, number: int) -> list[Measured]:
    """Send that many spans through collector and Jaeger."""
    sample = _sample_of_spans()
    size = sum(len(scope.spans) for part in sample.resource_spans for scope in part.scope_spans)
    with ExitStack() as stack:
        jaeger, jaeger_ports = stack.enter_context(_jaeger(folder))
        collector, ports = stack.enter_context(_collector(folder, jaeger_ports["grpc"]))
        before = _cpu(collector), _cpu(jaeger)
        sent, wire = _send(ports, sample, number)
        _until(partial(_has_sent, ports, sent), "Jaeger has all spans", _DRAIN_SECONDS)
        after = _cpu(collector), _cpu(jaeger)
        memory = _memory(collector)
    disk = sum(path.stat().st_blocks * 512 for path in (folder / "badger").rglob("*") if path.is_file())
    of_collector, of_jaeger = (end - start for start, end in zip(before, after, strict=True))
    return [
        Measured("spans sent", sent, "spans"),
        Measured("spans of a request", size / _REQUESTS, "spans"),
        Measured("size of a span on the wire, before compression", wire / sent, "bytes"),
        Measured("collector: spans per second and core", sent / of_collector, "spans/s"),
        Measured("collector: peak of its memory", memory / 2**20, "MiB"),
        Measured("Jaeger with Badger: spans per second and core", sent / of_jaeger, "spans/s"),
        Measured("Jaeger with Badger: disk", disk / sent, "bytes/span"),
    ]


_REQUESTS: Final = 128


def _sample_of_spans() -> ExportTraceServiceRequest:
    """The spans of some requests, as our exporter sends them, in one message."""
    whole = ExportTraceServiceRequest()
    with _receiver() as (port, bodies):
        with _app(traces={"exporter": "otlp", "base_endpoint": f"http://127.0.0.1:{port}"}) as (client, _):
            for order in range(_REQUESTS):
                client.get(f"/orders/{order}")
        for body in bodies:
            whole.MergeFromString(body)
    return whole


def _send(ports: Mapping[str, int], sample: ExportTraceServiceRequest, number: int) -> tuple[int, int]:
    """Send that many spans, no faster than Jaeger takes them: refused ones would cost CPU time too. Spans and bytes."""
    message = ExportTraceServiceRequest()
    message.CopyFrom(sample)
    connection = http.client.HTTPConnection("127.0.0.1", ports["http"], timeout=60)
    spans = size = until = 0
    while spans < number:
        if spans >= until:
            _until(partial(_has_sent, ports, spans - _UNDER_WAY), "Jaeger takes spans", _DRAIN_SECONDS)
            until = spans + _UNDER_WAY
        spans += _renew(message)
        body = message.SerializeToString()
        size += len(body)
        connection.request("POST", "/v1/traces", body, {"content-type": "application/x-protobuf"})
        response = connection.getresponse()
        response.read()
        if response.status != http.client.OK:
            raise RuntimeError(response.status)
    return spans, size


def _renew(message: ExportTraceServiceRequest) -> int:
    """Give its spans new ids and times; their number."""
    renewed: dict[bytes, bytes] = {b"": b""}
    now = time.time_ns()
    for part in message.resource_spans:
        for scope in part.scope_spans:
            for span in scope.spans:
                for field in ("trace_id", "span_id", "parent_span_id"):
                    old = getattr(span, field)
                    setattr(span, field, renewed.setdefault(old, secrets.token_bytes(len(old))))
                lasted = span.end_time_unix_nano - span.start_time_unix_nano
                span.start_time_unix_nano, span.end_time_unix_nano = now, now + lasted
    return _count(message)


def _count(message: ExportTraceServiceRequest) -> int:
    return sum(len(scope.spans) for part in message.resource_spans for scope in part.scope_spans)


def _has_sent(ports: Mapping[str, int], number: int) -> bool:
    """Whether the collector has sent that many spans."""
    lines = _page(f"http://127.0.0.1:{ports['metrics']}/metrics").splitlines()
    sent = (line.rpartition(" ")[2] for line in lines if line.startswith("otelcol_exporter_sent_spans{"))
    return sum(map(float, sent)) >= number


@contextmanager
def _collector(folder: Path, jaeger: int) -> Iterator[tuple["subprocess.Popen[bytes]", dict[str, int]]]:
    ports = {name: _free_port() for name in ("grpc", "http", "health", "metrics")}
    environment = {
        "COLLECTOR_HOST": "127.0.0.1",
        **{f"COLLECTOR_LISTEN_{name.upper()}": str(port) for name, port in ports.items()},
        "JAEGER_ENDPOINT": f"127.0.0.1:{jaeger}",
        "GOMEMLIMIT": "409MiB",
    }
    command: list[str | Path] = [_program("collector"), f"--config={_DEPLOY / 'collector' / 'config.yaml'}"]
    with _running(command, folder / "collector.log", environment, f"http://127.0.0.1:{ports['health']}/") as process:
        yield process, ports


@contextmanager
def _jaeger(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", dict[str, int]]]:
    ports = {name: _free_port() for name in ("grpc", "http", "ui", "query_grpc", "health", "metrics")}
    configs = [_DEPLOY / "jaeger" / name for name in ("config.yaml", "badger.yaml")]
    environment = {
        "JAEGER_HOST": "127.0.0.1",
        **{f"JAEGER_LISTEN_{name.upper()}": str(port) for name, port in ports.items()},
        "JAEGER_UI_CONFIG": str(_DEPLOY / "jaeger" / "ui-config.json"),
        "JAEGER_BADGER": str(folder / "badger"),
        "GOMEMLIMIT": "819MiB",
    }
    command: list[str | Path] = [_program("jaeger"), *(f"--config={path}" for path in configs)]
    ready = f"http://127.0.0.1:{ports['health']}/status"
    with _running(command, folder / "jaeger.log", environment, ready) as process:
        yield process, ports


# Metrics


def metrics(folder: Path, targets: int) -> list[Measured]:
    """Scrape that many instances of an app; store two hours' worth of one."""
    with _app(traces={"exporter": "none"}) as (client, _):
        pages = list(_pages(client))
    series = sum(not line.startswith("#") for line in pages[-1].splitlines() if line)
    memory = _scraped(folder, pages[-1], targets)
    samples, disk = _stored(folder, pages)
    return [
        Measured("series of a worker with one route in use", series, "series"),
        Measured("Prometheus: memory", memory / (series * targets), "bytes/series"),
        Measured("Prometheus: disk", disk / samples, "bytes/sample"),
    ]


def _pages(client: TestClient) -> Iterator[str]:
    for number in range(_SAMPLES):
        for order in range(1 + number % 7):
            client.get(f"/orders/{order}")
        yield client.get("/metrics").text


def _scraped(folder: Path, page: str, targets: int) -> int:
    """Bytes of memory that the series of these targets take in the shipped Prometheus."""
    with _page_served(page) as port:
        own = _free_port()
        scraped = [f"127.0.0.1:{port}"]
        config = {
            "global": {"scrape_interval": "5s"},
            "scrape_configs": [
                {
                    "job_name": "app",
                    "static_configs": [
                        {"targets": scraped, "labels": {"instance": f"app-{number}"}} for number in range(targets)
                    ],
                }
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        command: list[str | Path] = [
            _program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{own}",
            "--log.level=warn",
        ]
        ready = f"http://127.0.0.1:{own}/-/ready"
        with _running(command, folder / "prometheus.log", {}, ready) as process:
            before = _memory(process, "VmRSS")
            # twice, so that every series has samples in an open chunk
            _until(lambda: _asked(own, 'count(count_over_time(up{job="app"}[1h]) > 3)') >= targets, "scrapes")
            return _memory(process, "VmRSS") - before


def _stored(folder: Path, pages: Sequence[str]) -> tuple[int, int]:
    """The number of samples of these pages, and their bytes in a block that Prometheus' own tool writes."""
    start = int(time.time()) // 7200 * 7200 - 7200
    by_family: dict[str, list[str]] = {}
    for number, page in enumerate(pages):
        for line in page.splitlines():
            if line and not line.startswith("#"):
                series = line.rpartition(" ")[0]
                by_family.setdefault(series, []).append(f"{line} {start + number * _INTERVAL_SECONDS}")
    lines = [line for each in by_family.values() for line in each]
    (folder / "pages.om").write_text("\n".join([*lines, "# EOF", ""]))
    command: list[str | Path] = [_program("prometheus", "promtool"), "tsdb", "create-blocks-from", "openmetrics"]
    subprocess.run([*command, folder / "pages.om", folder / "blocks"], check=True, capture_output=True)
    return len(lines), sum(path.stat().st_size for path in (folder / "blocks").rglob("*") if path.is_file())


def _asked(port: int, query: str) -> float:
    answer = json.loads(_page(f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': query})}"))
    found = answer["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0


# What is measured


@contextmanager
def _app(**options: Any) -> Iterator[tuple[TestClient, Telemetry]]:
    """A client of an app whose requests run three statements."""
    app = FastAPI()
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

    @app.get("/orders/{order}")
    def order(order: int) -> int:
        with engine.connect() as connection:
            for _ in range(_STATEMENTS):
                connection.execute(text("SELECT :order + 1 AS items_of_an_order"), {"order": order})
        return order

    settings = Settings(service_name="shop", **options)
    with setup_telemetry(app, settings=settings) as telemetry, TestClient(app) as client:
        yield client, telemetry


@contextmanager
def _receiver() -> Iterator[tuple[int, list[bytes]]]:
    """A server that keeps the bodies it gets."""
    import gzip

    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            _answer(self, b"")

        def log_message(self, *_arguments: object) -> None:
            """Log nothing."""

    with _serving(Handler) as port:
        yield port, bodies


@contextmanager
def _page_served(page: str) -> Iterator[int]:
    content = page.encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, content)

        def log_message(self, *_arguments: object) -> None:
            """Log nothing."""

    with _serving(Handler) as port:
        yield port


def _answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/plain; version=0.0.4")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


# Processes


def _program(name: str, which: str | None = None) -> Path:
    path = built(name, which)
    if path is None:
        raise FileNotFoundError(name)
    return path


@contextmanager
def _running(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str], ready: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server until it has ended by SIGTERM, which closes its files."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=output, env={**os.environ, **environment}
        ) as process,
    ):
        try:
            _until(lambda: process.poll() is not None or bool(_page(ready)), str(command[0]))
            if process.poll() is not None:
                raise RuntimeError(log.read_text()[-2000:])
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)


def _until(condition: Callable[[], bool], what: str, seconds: float = _READY_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.2)


def _page(url: str) -> str:
    """The body of an answer; "" if there is none."""
    try:
        with urlopen(url, timeout=5) as response:  # noqa: S310 - http only
            body: bytes = response.read()
            return body.decode() or " "
    except OSError:
        return ""


def _cpu(process: "subprocess.Popen[bytes]") -> float:
    """CPU seconds of a process, user and system."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _memory(process: "subprocess.Popen[bytes]", which: str = "VmHWM") -> int:
    """Resident memory of a process in bytes: the peak, or VmRSS."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{which}:"))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())

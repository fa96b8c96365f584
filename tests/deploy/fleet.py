"""Very many services for Prometheus: each shows the page of a real app with 20 routes, whose counters grow with time.

`python -m tests.deploy.fleet --services 1000 --minutes 7` runs the shipped Prometheus on them, with the shipped
intervals, and prints how long half of the evaluations of each group of rules took at most.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Final
from urllib.request import urlopen

import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, text
from sqlalchemy.pool import QueuePool

from otel_fastperf import setup_telemetry
from otel_fastperf.metrics import CATALOGUE
from otel_fastperf.settings import Settings
from tests.deploy.prometheus import stack_prometheus
from tests.deploy.servers import DEPLOY
from tests.prometheus import Prometheus
from tests.serving import wait_until

ROUTES: Final = 20
#: statements of the route with an N+1
MANY: Final = 30
#: the number of the service of which a route fails all the time
FAILING: Final = 7
#: recordings about services, by name
FLEET: Final[Mapping[str, str]] = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load((DEPLOY / "prometheus" / "rules" / "fleet.yml").read_text())["groups"]
    for rule in group["rules"]
}

_GAUGES: Final = {metric.name for metric in CATALOGUE if metric.kind == "gauge"}
#: a container's limits, which a machine may have or not
_LIMITS: Final = ("fastperf_memory_limit", "fastperf_memory_headroom", "fastperf_cpu_")


@dataclass(frozen=True)
class Sample:
    """A line of a page."""

    name: str
    labels: Mapping[str, str]
    #: of a counter: its growth in a second
    value: float

    def after(self, seconds: float, *, fails: bool) -> str:
        """The line that much later. `fails`: whether requests that fail are counted."""
        shown = ",".join(f'{label}="{value}"' for label, value in self.labels.items())
        grown = self.value if self.name in _GAUGES else self.value * seconds
        failed = self.labels.get("error_type", "") not in {"", "ClientDisconnect"}
        return f"{self.name}{{{shown}}} {grown if fails or not failed else 0.0:g}\n"


def recorded_page() -> list[Sample]:
    """The page of an app with 20 routes: half of them read a database, one with an N+1, and one fails."""
    app = FastAPI()
    # however fast the machine is
    telemetry = setup_telemetry(app, settings=Settings(database={"n_plus_one_seconds": 0}))
    engine = create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=QueuePool)

    def reads(item: int) -> int:
        with engine.connect() as connection:
            numbers = range(MANY if item == 1 else 1)
            return sum(connection.execute(text("select :n"), {"n": number}).scalar_one() for number in numbers)

    async def computes(item: int) -> int:
        return 1 // item

    for number in range(ROUTES):
        app.get(f"/routes/{number}/{{item}}")(reads if number % 2 else computes)
    with TestClient(app, raise_server_exceptions=False) as client:
        for number in range(ROUTES):
            # the first fails in the first route, the second has an N+1 in the second
            client.get(f"/routes/{number}/{min(2, number)}")
        page = client.get("/metrics").text
    telemetry.shutdown()
    engine.dispose()
    return [
        Sample(sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if not sample.name.startswith(_LIMITS)
    ]


@contextmanager
def serving(page: Sequence[Sample]) -> Iterator[str]:
    """`host:port` of a server that shows the page of service N under /N."""
    started = time.monotonic()

    @lru_cache(maxsize=4)
    def shown(second: int, *, fails: bool) -> bytes:
        return "".join(sample.after(second, fails=fails) for sample in page).encode()

    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = shown(int(time.monotonic() - started), fails=self.path == f"/{FAILING}")
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        #: connections that wait to be accepted: Prometheus opens one for each service
        request_queue_size = 4096

        def handle_error(self, *_: Any) -> None:
            """A connection that Prometheus closes is no error."""

    with Server(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def fleet_prometheus(
    folder: Path, page: Sequence[Sample], services: int, *, quick: bool = False
) -> Iterator[Prometheus]:
    """The shipped Prometheus with that many services, of which all have been scraped; see `stack_prometheus`."""
    with serving(page) as address, stack_prometheus(folder, quick=quick) as prometheus:
        (folder / "prometheus" / "targets" / "fleet.yml").write_text(
            json.dumps(
                [
                    {
                        "targets": [address],
                        "labels": {"job": f"service-{number}", "__metrics_path__": f"/{number}"},
                    }
                    for number in range(services)
                ]
            )
        )
        up = f'count(up{{job=~"service-.*"}} == 1) == {services}'
        wait_until(lambda: prometheus.query(up), seconds=60 + services, what=f"{services} services are scraped")
        yield prometheus


def seconds_of_groups(prometheus: Prometheus) -> dict[str, float]:
    """How long the last evaluation of each group took, by its name."""
    with urlopen(f"{prometheus.url}/api/v1/rules", timeout=60) as response:
        groups = json.load(response)["data"]["groups"]
    return {group["name"]: group["evaluationTime"] for group in groups}


def counted(prometheus: Prometheus, name: str) -> int:
    """The number of series of services that a recording has now."""
    return int(prometheus.value(f'count({name}{{job=~"service-.*"}})') or 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.fleet", description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=7, help="7: the windows of 5 minutes are full")
    options = parser.parse_args(arguments)
    page = recorded_page()
    with (
        TemporaryDirectory() as folder,
        fleet_prometheus(Path(folder), page, options.services) as prometheus,
    ):
        seen: dict[str, list[float]] = {}
        end = time.monotonic() + options.minutes * 60
        while time.monotonic() < end:
            time.sleep(5)
            for group, seconds in seconds_of_groups(prometheus).items():
                seen.setdefault(group, []).append(seconds)
        raw = int(prometheus.value('sum(scrape_samples_scraped{job=~"service-.*"})') or 0)
        fleet = sum(counted(prometheus, name) for name in FLEET)
        memory = prometheus.value('process_resident_memory_bytes{job="prometheus"}') or 0
    print(f"{options.services} services of {ROUTES} routes, {raw} series; resident memory {memory / 2**30:.1f} GiB")
    print(f"fleet.yml records {fleet} series: {fleet / raw:.1%}")
    for group, seconds in sorted(((group, median(all_of)) for group, all_of in seen.items()), key=lambda one: -one[1])[
        :6
    ]:
        print(f"{group}: {seconds:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

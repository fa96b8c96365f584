"""The shipped stack and the services of the drill, as processes on free ports of 127.0.0.1."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from demo.database import database_url
from demo.seed import seed
from tests.deploy import alertmanager, collector, jaeger, prometheus
from tests.deploy.alertmanager import Webhook
from tests.deploy.collector import Collector, running_collector
from tests.deploy.jaeger import Jaeger, running_jaeger
from tests.deploy.night.clock import Clock
from tests.deploy.night.load import Shoppers, healthy_paths
from tests.deploy.night.part import Part
from tests.deploy.night.watch import Watch
from tests.deploy.servers import Running
from tests.prometheus import Prometheus
from tests.serving import Command, free_port, run_server, wait_until

#: the size of the disk with the collector's queue
DISK_BYTES: Final = 128 * 1024 * 1024


@dataclass
class Service:
    """A service under load."""

    name: str
    part: Part[Command]
    shoppers: Shoppers
    port: int
    #: the file of its database, for the demo
    database: Path | None

    @property
    def pid(self) -> int:
        return self.part.server.process.pid


@dataclass
class Stack:
    """Everything that runs during the night."""

    clock: Clock
    collector: Part[Collector]
    jaeger: Part[Jaeger]
    prometheus: Part[Running]
    prometheus_url: str
    watch: Watch
    #: the folder with the collector's queue, a small disk of its own; None if none can be made here
    disk: Path | None
    #: by name: `shop` and `checkout` are the demo; `small` and `quiet` have an endpoint that returns a number
    services: dict[str, Service]

    def query(self, promql: str) -> float:
        """The sum of an instant query, 0 without a result."""
        return sum(float(one["value"][1]) for one in Prometheus(self.prometheus_url).query(promql))


@contextmanager
def running_stack(folder: Path, clock: Clock) -> Iterator[Stack]:
    """Start the stack, then the services and their shoppers."""
    with ExitStack() as running:
        webhook = running.enter_context(Webhook())
        disk = running.enter_context(small_disk(folder / "queues"))
        ports = {name: free_port() for name in (*DEMOS, *SMALL)}
        address = f"127.0.0.1:{free_port()}"
        collector_part, jaeger_part = _traces(folder, address, clock)
        for ending in (collector_part.end, jaeger_part.end):
            running.callback(ending)
        traces = jaeger_part.start()
        spans = collector_part.start()
        told = running.enter_context(
            alertmanager.alertmanager_with(alertmanager.configured(folder, webhook, clock.rewritten), folder)
        )
        configuration = prometheus.configured(
            folder,
            apps={name: [f"127.0.0.1:{port}"] for name, port in ports.items()},
            collector=f"127.0.0.1:{spans.ports.metrics}",
            jaeger=urlsplit(traces.metrics_url).netloc,
            alertmanager=told.address,
            own=address,
            rewritten=clock.rewritten,
        )
        services = {name: _service(name, port, folder, spans.endpoint, clock) for name, port in ports.items()}
        for service in services.values():
            running.callback(service.part.end)
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda service: service.part.start(), services.values()))
        grace = clock.shorter(prometheus.GRACE)
        # longer by a faster clock: Prometheus takes as long to start by any
        resend = clock.shorter(prometheus.RESEND if clock.faster == 1 else "3m")
        prometheus_part = Part(
            lambda: prometheus.prometheus_with(configuration, folder, address, grace=grace, resend=resend)
        )
        running.callback(prometheus_part.end)
        prometheus_part.start()
        known = Prometheus(f"http://{address}")
        known.wait_until_up()
        # the rules remember services that they have seen, so that an alert can name one that is gone
        wait_until(
            lambda: len(known.query("job:fastperf_service:info")) == len(services), what="the services are known"
        )
        for service in services.values():
            running.enter_context(service.shoppers)
        watch = running.enter_context(Watch(lambda: f"http://{address}", webhook, settling=clock.seconds(150)))
        yield Stack(clock, collector_part, jaeger_part, prometheus_part, f"http://{address}", watch, disk, services)


def _traces(folder: Path, prometheus_address: str, clock: Clock) -> tuple[Part[Collector], Part[Jaeger]]:
    port = int(prometheus_address.rpartition(":")[2])
    collector_ports, jaeger_ports = collector.Ports(), jaeger.Ports()

    def run_jaeger() -> AbstractContextManager[Jaeger]:
        return running_jaeger(folder, ["badger"], prometheus=port, ports=jaeger_ports)

    def run_collector() -> AbstractContextManager[Collector]:
        return running_collector(
            folder,
            ["persistent"],
            jaeger=jaeger_ports.otlp_grpc,
            prometheus=port,
            ports=collector_ports,
            variables={"COLLECTOR_SPAN_METRICS_INTERVAL": f"{clock.seconds(15):g}s"},
            extra=[f"yaml:exporters::otlp_grpc/jaeger::retry_on_failure::max_interval: {clock.shorter('30s')}"],
        )

    return Part(run_collector), Part(run_jaeger)


DEMOS: Final = ("shop", "checkout")
SMALL: Final = ("small", "quiet")


def _service(name: str, port: int, folder: Path, endpoint: str, clock: Clock) -> Service:
    database = folder / f"{name}.sqlite3" if name in DEMOS else None
    environment = {"OTEL_SERVICE_NAME": name, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    if database is not None:
        environment["DATABASE_URL"] = f"sqlite:///{database}"
        seed(database_url(environment))
    app = "tests.service:app" if database is None else "demo.app:app"
    command = ["uvicorn", app, "--port", "{port}", "--log-level", "warning", "--no-access-log"]
    part = Part(lambda: run_server(command, log=folder / f"{name}.log", environment=environment, port=port))
    match name:
        case "quiet":
            # a few failures, as any service has: too few for a page
            shoppers = Shoppers(port, lambda _: _quiet_paths(), number=1, pause=clock.seconds(3))
        case "small":
            shoppers = Shoppers(port, lambda seed: _same(f"/items/{seed}"), number=2, pause=0.1)
        case _:
            shoppers = Shoppers(port, healthy_paths)
    return Service(name, part, shoppers, port, database)


def _same(path: str) -> Iterator[str]:
    while True:
        yield path


def _quiet_paths() -> Iterator[str]:
    for _ in range(3):
        yield from ("/items/1",) * 40
        yield "/boom"
    yield from _same("/items/1")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of `DISK_BYTES` at this folder, or None where none can be mounted."""
    folder.mkdir()
    size = f"size={DISK_BYTES}"
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = (
        mounted
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "fastperf-queues", str(folder)], capture_output=True, check=False
        ).returncode
    )
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)

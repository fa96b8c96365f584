"""The collector with this repository's configuration, on free ports of 127.0.0.1.

Use:
    with Receiver("grpc") as jaeger, running_collector(folder, ["tail-sampling"], jaeger=jaeger.port) as collector:
        collector.send([Sent("GET /items")])
        jaeger.wait_for(1)
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from tests.deploy.servers import DEPLOY, Running, answers, program, running
from tests.deploy.spans import Sent, export
from tests.serving import free_port

BASE: Final = DEPLOY / "collector" / "config.yaml"
OVERLAYS: Final = DEPLOY / "collector" / "overlays"

#: nobody listens, so data sent there waits, which does not affect tests of traces
NOWHERE: Final = 9


def configs(overlays: Iterable[str]) -> list[Path]:
    """The files of the base and these overlays."""
    return [BASE, *(OVERLAYS / f"{name}.yaml" for name in overlays)]


@dataclass(frozen=True)
class Ports:
    """The ports of a collector. Pass them to the next one to replace it."""

    grpc: int = field(default_factory=free_port)
    http: int = field(default_factory=free_port)
    health: int = field(default_factory=free_port)
    metrics: int = field(default_factory=free_port)


@dataclass
class Collector:
    """A running collector."""

    server: Running
    ports: Ports

    @property
    def endpoint(self) -> str:
        """Base address for OTLP over HTTP."""
        return f"http://127.0.0.1:{self.ports.http}"

    def send(self, spans: Iterable[Sent], *, service: str = "shop") -> None:
        """Send spans; fail if they are not accepted."""
        status = export(self.endpoint, spans, service=service)
        assert status == 200, f"{status}: {self.server.log[-2000:]}"

    def metrics(self) -> dict[str, float]:
        """The collector's own metrics, {name: sum over the label sets}."""
        return own_metrics(f"http://127.0.0.1:{self.ports.metrics}/metrics")


@contextmanager
def running_collector(
    folder: Path,
    overlays: Iterable[str] = (),
    *,
    jaeger: int = NOWHERE,
    prometheus: int = NOWHERE,
    variables: Mapping[str, str] | None = None,
    ports: Ports | None = None,
    extra: Sequence[str] = (),
) -> Iterator[Collector]:
    """Run the collector with the base, these overlays, and `extra` --config arguments.

    `jaeger` (OTLP over gRPC) and `prometheus` (HTTP) are ports of 127.0.0.1.
    """
    ports = ports or Ports()
    environment = {
        "COLLECTOR_HOST": "127.0.0.1",
        "COLLECTOR_LISTEN_GRPC": str(ports.grpc),
        "COLLECTOR_LISTEN_HTTP": str(ports.http),
        "COLLECTOR_LISTEN_HEALTH": str(ports.health),
        "COLLECTOR_LISTEN_METRICS": str(ports.metrics),
        "COLLECTOR_SPAN_METRICS_INTERVAL": "1s",
        "COLLECTOR_STORAGE": str(folder / "queues"),
        "JAEGER_ENDPOINT": f"127.0.0.1:{jaeger}",
        "PROMETHEUS_ENDPOINT": f"http://127.0.0.1:{prometheus}",
        **(variables or {}),
    }
    command: list[str | Path] = [program("collector"), *(f"--config={path}" for path in configs(overlays))]
    command += [f"--config={each}" for each in extra]
    with running(
        command,
        folder / f"collector-{ports.grpc}.log",
        lambda: answers(f"http://127.0.0.1:{ports.health}"),
        variables=environment,
    ) as server:
        yield Collector(server, ports)


def own_metrics(url: str) -> dict[str, float]:
    """A server's metrics about itself, {name of a sample as on its page: sum over label sets}."""
    sums: defaultdict[str, float] = defaultdict(float)
    with urlopen(url, timeout=5) as response:
        for line in response.read().decode().splitlines():
            if line and not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                sums[series.partition("{")[0]] += float(value)
    return dict(sums)

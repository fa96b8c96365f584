"""A broker that speaks Kafka's protocol and keeps its messages in memory."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deploy.servers import program, running
from tests.serving import free_port


@contextmanager
def running_kafka(folder: Path) -> Iterator[int]:
    """Run it with the topic of spans; its port."""
    port = free_port()
    with running([program("kafka"), str(port), "otlp_spans"], folder / "kafka.log", lambda: _listens(port)):
        yield port


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0

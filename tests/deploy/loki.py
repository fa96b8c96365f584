"""Loki with this repository's configuration, on free ports of 127.0.0.1.

Use:
    with running_loki(folder) as loki, running_collector(folder, ["logs"], variables={"LOGS_ENDPOINT": loki.otlp}):
        loki.records('{service_name="shop"} | trace_id = `4bf9…`')
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.deploy.servers import DEPLOY, Running, answers, program, running
from tests.serving import free_port

CONFIG: Final = DEPLOY / "loki" / "config.yaml"


@dataclass(frozen=True)
class Record:
    """A record as a query returns it: its text, and its labels with its structured metadata."""

    text: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Loki:
    """A running Loki."""

    server: Running
    port: int

    @property
    def otlp(self) -> str:
        """The value of LOGS_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}/otlp"

    def records(self, query: str) -> list[Record]:
        """The records of the last hour that a query finds."""
        streams = self.ask("query_range", query=query, limit="1000")["data"]["result"]
        return [Record(text, stream["stream"]) for stream in streams for _, text in stream["values"]]

    def ask(self, what: str, **parameters: str) -> Any:
        """Call its API."""
        with urlopen(f"http://127.0.0.1:{self.port}/loki/api/v1/{what}?{urlencode(parameters)}", timeout=10) as answer:
            return json.loads(answer.read())


def variables(folder: Path, port: int, grpc: int) -> dict[str, str]:
    """The environment that its configuration needs here."""
    return {
        "LOKI_HOST": "127.0.0.1",
        "LOKI_LISTEN_HTTP": str(port),
        "LOKI_LISTEN_GRPC": str(grpc),
        "LOKI_DATA": str(folder / "loki"),
    }


@contextmanager
def running_loki(folder: Path, port: int | None = None) -> Iterator[Loki]:
    """Run Loki, with its data in the folder."""
    port = port or free_port()
    command: list[str | Path] = [program("loki"), f"-config.file={CONFIG}", "-config.expand-env=true"]
    environment = variables(folder, port, free_port())
    with running(
        command,
        folder / "loki.log",
        lambda: answers(f"http://127.0.0.1:{port}/ready"),
        variables=environment,
        cwd=folder,
    ) as server:
        yield Loki(server, port)

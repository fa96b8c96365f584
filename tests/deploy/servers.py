"""The stack's servers for tests, built by `make test-stack` and run on free ports of 127.0.0.1."""

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.serving import wait_until
from tools.servers import SERVERS, built

ROOT: Final = Path(__file__).parent.parent.parent
DEPLOY: Final = ROOT / "deploy"
GRAFANA: Final = ROOT / "grafana"

#: generous: a loaded CI machine with two cores
PATIENCE_SECONDS: Final = 60.0


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark tests of these servers: they skip with a remedy if one has not been built."""
    missing = [SERVERS[name] for name in names if built(name) is None]
    named = ", ".join(f"{server.name} {server.version}" for server in missing)
    tools = " and ".join(sorted({server.needs for server in missing}))
    return pytest.mark.skipif(
        bool(missing), reason=f"not built here: {named}; `make test-stack` builds it (needs {tools})"
    )


def program(name: str, which: str | None = None) -> Path:
    """The path of a program that `needs` names."""
    path = built(name, which)
    assert path is not None, f"{name} has not been built"
    return path


@dataclass
class Running:
    """A running server."""

    process: "subprocess.Popen[bytes]"
    log_file: Path

    @property
    def log(self) -> str:
        """Everything it has printed so far."""
        return self.log_file.read_text(errors="replace")

    def kill(self) -> None:
        """End it at once, like the kernel would."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running(
    command: Sequence[str | Path],
    log_file: Path,
    ready: Callable[[], bool],
    *,
    variables: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Running]:
    """Run a server, and wait until it is ready; fail with its log if it ends before."""
    with (
        log_file.open("ab") as output,
        subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=output,
            env={**environ, **(variables or {})},
            cwd=cwd,
        ) as process,
    ):
        server = Running(process, log_file)
        try:
            wait_until(lambda: process.poll() is not None or ready(), seconds=PATIENCE_SECONDS)
            assert process.poll() is None, server.log[-4000:]
            yield server
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def answers(url: str) -> bool:
    """Whether a GET of this URL is answered with 200."""
    try:
        with urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False

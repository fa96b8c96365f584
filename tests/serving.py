"""Real servers for tests: uvicorn in a thread of this process, and any server command as a subprocess."""

import asyncio
import contextlib
import http.client
import http.server
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

ROOT = Path(__file__).resolve().parents[1]

#: ports below those that the kernel gives to clients: 32768 and up on Linux, 49152 and up elsewhere. Workers of one run
#: choose by chance, and so differ
_NO_CLIENTS = range(15_000, 32_000)
_RANDOM = random.SystemRandom()


def free_port() -> int:
    """A port of 127.0.0.1 that is free now, and that no client is given as its own until a server listens there."""
    while True:
        port = _RANDOM.choice(_NO_CLIENTS)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Any, *, seconds: float = 60.0, what: str = "") -> Any:
    """Poll until `condition()` is true, and return its value; otherwise fail with `what`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            message = f"not within {seconds} s: {what or condition}"
            raise AssertionError(message)
        time.sleep(0.02)


@dataclass
class Served:
    """A server that answers on 127.0.0.1."""

    port: int
    #: the number of requests in progress, including work after their last byte; None if unknown
    at_work: Callable[[], int] | None = field(default=None, kw_only=True)

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def get(
        self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> "Answer":
        """Send a request on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        self.settle()
        return answer

    def settle(self) -> None:
        """Give the server a moment to finish its answered requests: it records telemetry after the last byte."""
        deadline = time.monotonic() + 0.25
        while self.at_work is not None and self.at_work() and time.monotonic() < deadline:
            time.sleep(0.001)

    def raw(self, request: bytes, *, seconds: float = 10.0) -> bytes:
        """Send raw bytes; return everything the server answers until it closes the connection or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(request)
            answer = b""
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while chunk := connection.recv(65536):
                    answer += chunk
            return answer


@dataclass
class Answer:
    """A response with its whole body."""

    status: int
    headers: Any
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()


@contextlib.contextmanager
def serve(app: Any, **options: Any) -> Iterator[Served]:
    """Run the app with its lifespan under a real uvicorn, in a thread. It ends as after SIGTERM."""
    options = {"log_level": "warning", "lifespan": "auto"} | options
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, **options))
    # for uvloop, uvicorn before 0.36 sets the policy of the whole process
    policy = asyncio.get_event_loop_policy() if sys.version_info < (3, 14) else None
    failure: list[BaseException] = []

    def run() -> None:
        try:
            server.run()
        except BaseException as error:  # noqa: BLE001 - raised in the test below
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or failure or not thread.is_alive(), what="uvicorn starts")
        if not server.started:
            message = f"uvicorn did not start: {failure}"
            raise AssertionError(message)
        tasks = server.server_state.tasks
        yield Served(server.servers[0].sockets[0].getsockname()[1], at_work=lambda: len(tasks))
    finally:
        server.should_exit = True
        thread.join(20)
        if policy is not None:
            asyncio.set_event_loop_policy(policy)


@dataclass
class Command(Served):
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    log: Path

    def stop(self, number: int = signal.SIGTERM, *, seconds: float = 30.0) -> float:
        """Send the signal; return how many seconds the process took to end."""
        started = time.monotonic()
        if number == signal.SIGINT:
            # to the process group, like Ctrl-C: gunicorn's uvicorn workers ignore what the master sends after a SIGINT
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        self.process.wait(seconds)
        return time.monotonic() - started

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def run_server(
    command: list[str], *, log: Path, environment: Mapping[str, str] | None = None, port: int | None = None
) -> Iterator[Command]:
    """Run `python -m <command>` with `{port}` filled in, and wait until it answers. Kill it at the end."""
    port = free_port() if port is None else port
    argv = [sys.executable, "-m", *(part.format(port=port) for part in command)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(environment or {})}
    with log.open("w") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=subprocess.STDOUT, text=True, env=variables, cwd=ROOT, start_new_session=True
        )
        served = Command(port, process, log)
        try:
            wait_until(lambda: _answers(port) or process.poll() is not None, seconds=120, what="the server answers")
            if process.poll() is not None:
                message = f"{argv} ended with {process.returncode}:\n{served.output}"
                raise AssertionError(message)
            yield served
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def answering(status: int, headers: dict[str, str], body: bytes = b"") -> Iterator[tuple[str, list[Any]]]:
    """An HTTP server with one response; its URL, and the headers of the requests it received."""
    asked: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()

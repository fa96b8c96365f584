"""The page on a separate port, from separate threads: it answers even while the event loop is blocked."""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Final

from otel_fastperf.errors import SetupError
from otel_fastperf.exposition.endpoint import NOT_ALLOWED, Exposition
from otel_fastperf.exposition.responses import Page
from otel_fastperf.settings import MetricsSettings

#: idle connections are closed after this; scrapes usually come every 15 s, and rarer ones connect anew
_IDLE_SECONDS: Final = 30.0
#: above this number the oldest connection is closed, so slow clients cannot lock out others; a crowd may come at once
_MAX_CONNECTIONS: Final = 128
_STOP_SECONDS: Final = 2.0
#: between two attempts to serve a port that another worker serves
_TRY_SECONDS: Final = 0.5

_NOT_FOUND: Final = Page.of(404, b"Not found.\n")


@contextmanager
def serve_on_port(exposition: Exposition, settings: MetricsSettings) -> Iterator[str]:
    """Serve the page at `settings.path` on `settings.host` and `settings.port` (any free one if None). Yields the URL.

    Raises:
        SetupError: The port is taken, or the host is not an address of this machine.
    """
    server = _bound(exposition, settings)
    thread = threading.Thread(
        target=partial(server.serve_forever, poll_interval=0.2), name="otel_fastperf-metrics", daemon=True
    )
    thread.start()
    host, port = server.server_address[:2]
    try:
        yield f"http://{f'[{host!s}]' if ':' in str(host) else host!s}:{port}{settings.path}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serve_when_free(exposition: Exposition, settings: MetricsSettings) -> Iterator[None]:
    """Serve the page as soon as the port is free: the worker that serves it now may end."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(_TRY_SECONDS):
            with suppress(SetupError), serve_on_port(exposition, settings):
                over.wait()

    thread = threading.Thread(target=run, name="otel_fastperf-metrics-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _bound(exposition: Exposition, settings: MetricsSettings) -> "_Server":
    port = settings.port or 0
    try:
        infos = socket.getaddrinfo(settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = infos[0]
        return _Server(family, address[:2], exposition, settings.path)
    except OSError as error:
        message = (
            f"metrics.port={port}: cannot listen on {settings.host}:{port} ({error.strerror or error})."
            " A port can be used by one process only, not by several workers. Remedy: set OTEL_FASTPERF_METRICS_PORT"
            " to a free port and OTEL_FASTPERF_METRICS_HOST to an address of this machine, or omit the port: the app"
            f" itself then serves {settings.path}."
        )
        raise SetupError(message) from error


class _Server(ThreadingHTTPServer):
    """Uses one thread per connection, at most `_MAX_CONNECTIONS` of them, and ends them when it is closed."""

    # with the default, 5, some connections of a burst wait for more than a second
    request_queue_size = 128

    def __init__(self, family: socket.AddressFamily, address: Any, exposition: Exposition, path: str) -> None:
        self.address_family = family
        self.exposition = exposition
        self.path = path
        self._open: dict[Any, threading.Thread] = {}
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without `HTTPServer`'s look-up of the host's full name, which can take seconds."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a separate thread; close the oldest one if there are too many."""
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="otel_fastperf-metrics-connection",
            daemon=True,
        )
        with self._lock:
            if len(self._open) >= _MAX_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                _hang_up(oldest)
            self._open[request] = thread
        thread.start()

    def close_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().close_request(request)

    def server_close(self) -> None:
        """Close the port and every connection, and wait for their threads."""
        super().server_close()
        with self._lock:
            threads = tuple(self._open.values())
            for connection in self._open:
                _hang_up(connection)
        for thread in threads:
            thread.join(_STOP_SECONDS / len(threads))

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's signature
        """Count a failure, except if a client has disconnected or timed out."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            self.exposition.guard.failed("exposition", error)


def _hang_up(connection: socket.socket) -> None:
    """Wake the thread that reads from the connection; it reads the end and closes it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    # head and body are two writes: Nagle's algorithm would delay the second by 40 ms
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != self.server.path:
            self._send(_NOT_FOUND)
            return
        self._send(
            self.server.exposition.page(
                accept=self._header("accept"),
                accept_encoding=self._header("accept-encoding"),
                authorization=self._header("authorization"),
            )
        )

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        # the request body is not read, so the connection cannot be reused
        self.close_connection = True
        self._send(NOT_ALLOWED)

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815

    def version_string(self) -> str:
        return "otel_fastperf"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's signature
        """Do not log scrapes."""

    def _header(self, name: str) -> str:
        return ", ".join(self.headers.get_all(name, ()))

    def _send(self, page: Page) -> None:
        self.send_response(HTTPStatus(page.status))
        for name, value in page.headers:
            self.send_header(name.decode(), value.decode())
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

"""The page on a separate port."""

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from prometheus_client import REGISTRY
from prometheus_client.core import Metric

from otel_fastperf.errors import SetupError
from otel_fastperf.exposition import Exposition, serve_on_port
from otel_fastperf.exposition.server import _MAX_CONNECTIONS
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import MetricsSettings
from tests.filled import filled
from tests.serving import Served, free_port, wait_until
from tests.threads import new_threads

OPENMETRICS = "application/openmetrics-text"


@contextmanager
def served(failures: list[str] | None = None, **settings: Any) -> Iterator[Served]:
    group = MetricsSettings(**settings)
    guard = Guard((failures if failures is not None else []).append)
    with serve_on_port(Exposition(filled(Metrics()), group, guard), group) as url:
        port = urlsplit(url).port
        assert port is not None
        yield Served(port)


@pytest.fixture
def server() -> Iterator[Served]:
    with served() as server:
        yield server


def test_the_page_is_at_the_returned_url() -> None:
    settings = MetricsSettings(port=free_port(), path="/internal/metrics")
    with serve_on_port(Exposition(filled(Metrics()), settings, Guard(print)), settings) as url:
        assert url == f"http://127.0.0.1:{settings.port}/internal/metrics"
        with urlopen(url) as response:
            assert b"\nfastperf_spans_queued 1.0\n" in response.read()


def test_formats_and_compression_are_negotiated(server: Served) -> None:
    answer = server.get("/metrics", headers={"accept": OPENMETRICS, "accept-encoding": "gzip"})
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["cache-control"] == "no-store"
    assert int(answer.headers["content-length"]) == len(answer.body)


@pytest.mark.parametrize("accept", [b"\xff\xfe", b"application/openmetrics-text;version=abc", b"x" * 60000])
def test_any_accept_header_gives_a_page(server: Served, accept: bytes) -> None:
    answer = server.raw(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: " + accept + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_head_has_no_body(server: Served) -> None:
    answer = server.get("/metrics", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 1000


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "/docs", "//["])
def test_other_paths_are_not_found(server: Served, path: str) -> None:
    assert server.get(path).status == 404


def test_a_query_string_changes_nothing(server: Served) -> None:
    assert server.get("/metrics?name[]=x").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_get_405_with_the_allowed_ones(server: Served, method: str) -> None:
    answer = server.get("/metrics", method=method, body=b"x" * 100)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


def test_the_token_is_required_on_this_port_too() -> None:
    with served(bearer_token="12345678") as server:
        assert server.get("/metrics").headers["www-authenticate"] == "Bearer"
        assert server.get("/metrics", headers={"authorization": "bearer 12345678"}).status == 200


def test_scrapes_reuse_the_connection(server: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.connect()
    first = connection.sock
    for path, status in (("/metrics", 200), ("/nothing", 404), ("/metrics", 200)):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert connection.sock is first
    connection.close()


def test_the_page_is_served_while_the_event_loop_is_blocked(server: Served) -> None:
    async def blocks() -> int:
        return server.get("/metrics").status  # a synchronous call in the thread of the loop

    assert asyncio.run(blocks()) == 200


def test_a_port_in_use_is_an_error_with_port_and_remedy() -> None:
    before = threading.enumerate()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=rf"metrics.port={port}: .*in use.*OTEL_FASTPERF_METRICS_PORT"):
            served(port=port).__enter__()
    assert new_threads(before) == []


def test_a_host_of_another_machine_is_an_error_with_a_remedy() -> None:
    with pytest.raises(SetupError, match="OTEL_FASTPERF_METRICS_HOST"):
        served(port=free_port(), host="192.0.2.1").__enter__()


def test_the_server_listens_on_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    settings = MetricsSettings(host="::1", port=free_port())
    with serve_on_port(Exposition(Metrics(), settings, Guard(print)), settings) as url:
        assert url == f"http://[::1]:{settings.port}/metrics"
        with urlopen(url) as response:
            assert response.status == 200


def test_silent_connections_do_not_lock_other_clients_out(server: Served) -> None:
    before = threading.enumerate()
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            for _ in range(_MAX_CONNECTIONS + 5)
        ]
        for connection in silent:
            connection.sendall(b"GET /metrics HT")
        assert server.get("/metrics").status == 200
        assert silent[0].recv(1) == b""  # the oldest was closed
        assert len(new_threads(before)) <= _MAX_CONNECTIONS + 2


def test_a_crowd_of_scrapers_at_once_gets_whole_pages(server: Served) -> None:
    over = threading.Event()

    class Slow:
        def describe(self) -> list[Metric]:
            return []

        def collect(self) -> list[Metric]:
            over.wait(60)
            return []

    slow = Slow()
    with ExitStack() as stack:
        REGISTRY.register(slow)
        stack.callback(REGISTRY.unregister, slow)
        stack.callback(over.set)
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60)) for _ in range(60)
        ]
        for connection in crowd:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        wait_until(lambda: len(serving()) >= len(crowd), what="all are served")
        over.set()
        pages = [stack.enter_context(connection.makefile("rb")).read() for connection in crowd]
    assert {b"\nfastperf_spans_queued 1.0\n" in page for page in pages} == {True}


def serving() -> list[threading.Thread]:
    """Threads that serve connections."""
    return [thread for thread in threading.enumerate() if thread.name == "otel_fastperf-metrics-connection"]


def test_invalid_requests_are_refused_and_not_counted_as_failures() -> None:
    failures: list[str] = []
    with served(failures) as server:
        for garbage in (
            b"\x16\x03\x01\x02\x00\r\n\r\n",
            b"GET\r\n\r\n",
            b"\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"BREW /metrics HTTP/1.1\r\n\r\n",
        ):
            server.raw(garbage + b"\r\n", seconds=0.5)
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            gone.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert server.get("/metrics").status == 200
    assert failures == []


def test_afterwards_the_port_is_free_and_all_threads_have_ended() -> None:
    before = threading.enumerate()
    with served() as server:
        idle = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        idle.request("GET", "/metrics")
        idle.getresponse().read()
        started = time.monotonic()
    assert time.monotonic() - started < 10
    wait_until(lambda: not new_threads(before), what="threads end")
    with pytest.raises(ConnectionRefusedError):
        server.get("/metrics")
    idle.close()
    with served(port=server.port) as again:
        assert again.get("/metrics").status == 200

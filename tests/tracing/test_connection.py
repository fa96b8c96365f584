"""Whatever is at the other end of an HTTP connection: an attempt ends in time, and costs little memory."""

import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from socket import create_connection, create_server, socket

import pytest

from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.exporters import destination
from otel_fastperf.tracing.transport import Answer, Transport, Verdict
from tests.certificates import self_signed
from tests.encoded import encoded
from tests.hostile.receiver import OK, Hostile, hostile
from tests.otlp import seconds_of
from tests.serving import free_port, wait_until

#: bytes that are not read, and are in no buffer of the kernel or of TLS either
FAR_BEYOND = 50_000_000


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def transport_to(endpoint: str, **settings: object) -> Transport:
    group = {"endpoint": endpoint} | settings
    return destination(TracesSettings.model_validate(group)).connect()


def send(server: Hostile, timeout: float = 5.0, **settings: object) -> Answer:
    transport = transport_to(f"http://127.0.0.1:{server.port}/v1/traces", **settings)
    try:
        return transport.send(encoded("a"), timeout)
    finally:
        transport.close()


def pouring(start: bytes, more: bytes) -> Callable[[Hostile, socket], None]:
    return lambda server, connection: server.pour(connection, start, more)


def trickling(start: bytes, more: bytes) -> Callable[[Hostile, socket], None]:
    def answer(_server: Hostile, connection: socket) -> None:
        connection.sendall(start)
        for index in range(1000):
            connection.sendall(more[index % len(more) :][:1])
            time.sleep(0.05)

    return answer


ZEROS = b"\0" * 65536
ENDLESS = {
    "body with a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", ZEROS, Verdict.ACCEPTED),
    "body without a length": (b"HTTP/1.1 200 OK\r\n\r\n", ZEROS, Verdict.ACCEPTED),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"10000\r\n" + ZEROS + b"\r\n",
        Verdict.ACCEPTED,
    ),
    "body of an error": (b"HTTP/1.1 503 No\r\nContent-Length: 10000000000\r\n\r\n", ZEROS, Verdict.RETRY),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"a" * 65536, Verdict.RETRY),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 60000 + b"\r\n", Verdict.RETRY),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, Verdict.RETRY),
}


@pytest.mark.parametrize(("start", "more", "verdict"), ENDLESS.values(), ids=ENDLESS.keys())
def test_an_endless_answer_costs_little_memory_and_no_time(start: bytes, more: bytes, verdict: Verdict) -> None:
    """The status decides when there is one: what the receiver has taken is not sent again."""
    with hostile(pouring(start, more)) as server:
        send(server)
        tracemalloc.start()
        try:
            began = time.monotonic()
            answer = send(server)
            assert time.monotonic() - began < 3
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()
        assert answer.verdict is verdict
        wait_until(lambda: len(server.requests) == 2)
        assert server.bytes_sent < FAR_BEYOND


def test_a_compressed_answer_is_not_decompressed() -> None:
    bomb = zlib.compress(b"\0" * 100_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with hostile(lambda _server, connection: connection.sendall(head + bomb)) as server:
        tracemalloc.start()
        try:
            assert send(server) == Answer(Verdict.ACCEPTED)
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("start", "verdict"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", Verdict.ACCEPTED),
        (b"HTTP/1.1 200 OK\r\nX: ", Verdict.RETRY),
        (b"", Verdict.RETRY),
    ],
    ids=["body", "header", "status line"],
)
def test_an_answer_that_trickles_ends_with_the_deadline(start: bytes, verdict: Verdict) -> None:
    with hostile(trickling(start, b"HTTP/1.1 200 OK")) as server:
        answers: list[Answer] = []
        assert 0.4 < seconds_of(lambda: answers.append(send(server, timeout=0.5))) < 1.5
        assert answers[0].verdict is verdict
        if verdict is Verdict.RETRY:
            assert answers[0].reason == "no answer within 0.5 s"


def test_a_receiver_that_reads_slowly_ends_with_the_deadline() -> None:
    """The request is larger than what fits the buffers between the two."""
    with create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        transport = transport_to(f"http://127.0.0.1:{port}", compression="none")
        batch = encoded("x" * 20_000_000)
        assert 0.4 < seconds_of(lambda: transport.send(batch, 0.5)) < 1.5
        transport.close()


def test_what_a_receiver_says_is_fit_for_a_log() -> None:
    reply = b"HTTP/1.1 418 \x1b[31m evil\x07" + b"A" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n"
    with hostile(lambda _server, connection: connection.sendall(reply)) as server:
        answer = send(server)
    assert answer.reason.startswith("HTTP 418 ?[31m evil?AAA")
    assert len(answer.reason) < 200


def test_a_request_refused_before_it_was_read_is_too_large() -> None:
    """A proxy answers 413 from the length, and hangs up on the rest."""

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            connection.shutdown(1)
            # reading on, so that no reset destroys the answer on its way
            while connection.recv(65536):
                pass

    with create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refuse, daemon=True).start()
        transport = transport_to(f"http://127.0.0.1:{listener.getsockname()[1]}", compression="none")
        assert transport.send(encoded("x" * 5_000_000), 5.0).verdict is Verdict.TOO_LARGE
        transport.close()


def test_a_connection_is_kept_and_replaced_once_when_it_has_gone_stale() -> None:
    stale = threading.Event()

    def answer(server: Hostile, connection: socket) -> None:
        connection.sendall(OK)
        if len(server.requests) == 2:
            connection.shutdown(2)
            stale.set()

    with hostile(answer) as server:
        transport = transport_to(f"http://127.0.0.1:{server.port}")
        for _ in range(2):
            assert transport.send(encoded("a"), 5.0).verdict is Verdict.ACCEPTED
        assert stale.wait(5)
        assert transport.send(encoded("a"), 5.0).verdict is Verdict.ACCEPTED
        transport.close()
        assert len(server.requests) == 3


@pytest.mark.parametrize("how", ["close", "fork"])
def test_a_call_under_way_ends_when_another_thread_says_so(how: str) -> None:
    with hostile(lambda _server, _connection: time.sleep(30)) as server:
        transport = transport_to(f"http://127.0.0.1:{server.port}")
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(transport.send(encoded("a"), 20.0)))
        thread.start()
        wait_until(lambda: len(server.requests) == 1)
        if how == "close":
            transport.close()
        else:
            transport.prepare_fork(idle=False)
        thread.join(5)
        assert answers == [Answer(Verdict.INTERRUPTED)]
        transport.close()


def test_user_and_password_in_the_address_are_sent_as_a_header() -> None:
    with hostile(lambda _server, connection: connection.sendall(OK)) as server:
        transport = transport_to(f"http://user:p%40ss@127.0.0.1:{server.port}/ä b?key=1")
        assert transport.send(encoded("a"), 5.0).verdict is Verdict.ACCEPTED
        transport.close()
    lines = server.requests[0].lower().splitlines()
    assert lines[0] == "post /%c3%a4%20b?key=1 http/1.1"
    assert "authorization: basic dxnlcjpwqhnz" in lines
    assert f"host: 127.0.0.1:{server.port}" in lines


# proxies


def test_a_proxy_gets_the_whole_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with hostile(lambda _server, connection: connection.sendall(OK)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{proxy.port}")
        transport = transport_to("http://collector.invalid:4318/v1/traces")
        assert transport.send(encoded("a"), 5.0).verdict is Verdict.ACCEPTED
        transport.close()
    lines = proxy.requests[0].splitlines()
    assert lines[0] == "POST http://collector.invalid:4318/v1/traces HTTP/1.1"
    assert "Host: collector.invalid:4318" in lines
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in lines


@pytest.mark.parametrize("pattern", ["127.0.0.1", "127.0.0.0/8", "*", "other,127.0.0.1:{port}"])
def test_no_proxy_is_respected(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    with hostile(lambda _server, connection: connection.sendall(OK)) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("no_proxy", pattern.format(port=server.port))
        assert send(server).verdict is Verdict.ACCEPTED


def test_a_proxy_that_is_not_supported_or_refuses_loses_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    with hostile(lambda _server, connection: connection.sendall(b"HTTP/1.1 407 No\r\n\r\n")) as proxy:
        for address, reason in (
            (f"http://127.0.0.1:{proxy.port}", "the proxy answers HTTP 407"),
            ("socks5://127.0.0.1:1", "a proxy must be http://HOST:PORT, not socks5"),
        ):
            monkeypatch.setenv("https_proxy", address)
            transport = transport_to("https://collector.invalid")
            assert transport.send(encoded("a"), 5.0) == Answer(Verdict.RETRY, reason)
            transport.close()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[Hostile]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with hostile(lambda _server, connection: connection.sendall(OK), context) as server:
        yield server


def test_the_certificate_of_the_environment_is_trusted_and_no_other(
    tls_server: Hostile, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = transport_to(f"https://localhost:{tls_server.port}")
    assert transport.send(encoded("a"), 5.0) == Answer(
        Verdict.RETRY, "certificate verify failed: self-signed certificate"
    )
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file")
    assert transport.send(encoded("a"), 5.0) == Answer(Verdict.RETRY, "No such file or directory")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", str(certificate[0]))
    for _ in range(2):
        assert transport.send(encoded("a"), 5.0) == Answer(Verdict.ACCEPTED)
    transport.close()
    assert len(tls_server.requests) == 2


def test_a_client_certificate_is_shown(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate[0])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate[0]))
    with hostile(lambda _server, connection: connection.sendall(OK), context) as server:
        transport = transport_to(f"https://localhost:{server.port}")
        assert transport.send(encoded("a"), 5.0).verdict is Verdict.RETRY
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(certificate[0]))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(certificate[1]))
        assert transport.send(encoded("a"), 5.0) == Answer(Verdict.ACCEPTED)
        transport.close()


def test_an_answer_that_trickles_over_tls_ends_with_the_deadline(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate[0]))
    with hostile(trickling(b"", b"HTTP/1.1 200 OK"), context) as server:
        transport = transport_to(f"https://localhost:{server.port}")
        answers: list[Answer] = []
        assert 0.4 < seconds_of(lambda: answers.append(transport.send(encoded("a"), 0.5))) < 1.5
        assert answers == [Answer(Verdict.RETRY, "no answer within 0.5 s")]
        transport.close()


def test_tls_goes_through_a_tunnel_of_the_proxy(
    tls_server: Hostile, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def relay(_server: Hostile, connection: socket) -> None:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with create_connection(("127.0.0.1", tls_server.port)) as there:
            back = threading.Thread(target=pump, args=(there, connection), daemon=True)
            back.start()
            pump(connection, there)
            back.join(10)

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate[0]))
    with hostile(relay) as proxy:
        monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{proxy.port}")
        transport = transport_to(f"https://localhost:{tls_server.port}/v1/traces")
        for _ in range(2):
            assert transport.send(encoded("a"), 5.0) == Answer(Verdict.ACCEPTED)
        transport.close()
    assert [head.splitlines()[0] for head in proxy.requests] == [f"CONNECT localhost:{tls_server.port} HTTP/1.1"]
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in proxy.requests[0]
    assert "Proxy-Authorization" not in tls_server.requests[0]


def pump(source: socket, target: socket) -> None:
    """Pass on what comes, until the end."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(1)

"""An HTTP server that answers with bytes of a test's choice, as fast or as slowly as the test wants."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socket import SHUT_RDWR, create_server, socket

#: writes an answer on a connection, until the client hangs up
Answering = Callable[[socket], None]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Hostile:
    """The server. `requests` are the heads of what came, as text."""

    port: int
    requests: list[str] = field(default_factory=list)
    #: as the client has read them
    bytes_sent: int = 0

    def pour(self, connection: socket, start: bytes, more: bytes) -> None:
        """Write `start`, then `more` again and again until the client hangs up."""
        connection.sendall(start)
        while True:
            connection.sendall(more)
            self.bytes_sent += len(more)


@contextmanager
def hostile(answer: Callable[[Hostile, socket], None], tls: ssl.SSLContext | None = None) -> Iterator[Hostile]:
    """Serve on a free port of 127.0.0.1; `answer` is called for each request, after all of it was read."""
    listener = create_server(("127.0.0.1", 0))
    server = Hostile(listener.getsockname()[1])
    open_connections: list[socket] = []

    def serve(connection: socket) -> None:
        with suppress(OSError), connection:
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True)
            with connection:
                while head := _read_request(connection):
                    server.requests.append(head)
                    answer(server, connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_connections.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        for each in (listener, *open_connections):
            with suppress(OSError):
                each.shutdown(SHUT_RDWR)
            each.close()
        thread.join(10)


def _read_request(connection: socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        data += (more := connection.recv(65536))
        if not more:
            return ""
    head, _, body = data.partition(b"\r\n\r\n")
    fields = (line.split(b":") for line in head.lower().split(b"\r\n"))
    length = next((int(each[1]) for each in fields if each[0] == b"content-length"), 0)
    while len(body) < length:
        more = connection.recv(65536)
        if not more:
            return ""
        body += more
    return head.decode("latin-1")

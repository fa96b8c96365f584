"""An HTTP connection on which each exchange has one deadline, and no answer costs more than 64 KiB.

A time-out of a socket begins anew with each byte that comes, and `http.client` reads as many lines of a head, and
answers "100 Continue", as a server cares to send. So its socket is replaced by one that counts both.
"""

import io
import socket
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, Final
from urllib.parse import SplitResult

from otel_fastperf.tracing.proxy import ProxyError, basic_authorization, proxy_for
from otel_fastperf.tracing.tls import tls_context

#: bytes of one answer that are read, its head included
MOST_READ: Final = 2**16
_OK: Final = 200


class AnswerTooLongError(HTTPException):
    """The head of an answer takes more than `MOST_READ` bytes."""


class Deadline:
    """A moment of the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._moment = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then.

        Raises:
            TimeoutError: There are none.
        """
        seconds = self._moment - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


class CollectorConnection(HTTPConnection):
    """To the host of a URL, straight or through a proxy. `interrupt` may come from any thread."""

    def __init__(self, url: SplitResult) -> None:
        self._tls = url.scheme == "https"
        super().__init__(url.hostname or "", url.port or (443 if self._tls else 80))
        #: of the exchange that begins next
        self.deadline: Deadline = Deadline(0.0)
        self.proxy: SplitResult | None = proxy_for(url)
        self._socket: socket.socket | None = None
        self._interrupted = False

    def connect(self) -> None:
        """Connect, by the deadline."""
        connected = self._dialled(*self._peer())
        try:
            if self._tls:
                if self.proxy is not None:
                    self._tunnel_through(self.proxy, connected)
                connected.settimeout(self.deadline.left())
                connected = tls_context().wrap_socket(connected, server_hostname=self.host)
                self._socket = connected
        except BaseException:
            connected.close()
            raise
        self.sock: Any = _TimedSocket(connected, self.deadline)

    def begin(self, deadline: Deadline) -> None:
        """Give the next exchange its deadline, and an answer as much room as any."""
        self.deadline = deadline
        if self.sock is not None:
            self.sock.begin(deadline)

    def interrupt(self) -> None:
        """Have whatever waits for the socket fail at once."""
        self._interrupted = True
        waiting = self._socket
        if waiting is not None:
            # not SSLSocket's own, which would let another thread go on without encryption
            with suppress(OSError):
                socket.socket.shutdown(waiting, socket.SHUT_RDWR)

    def _peer(self) -> tuple[str, int]:
        if self.proxy is None:
            return self.host, self.port
        return self.proxy.hostname or "", self.proxy.port or 80

    def _dialled(self, host: str, port: int) -> socket.socket:
        """Connected to one of the host's addresses; one that does not answer leaves time for the others."""
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        error = OSError("the host has no address")
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            self._socket = tried = socket.socket(family, kind, protocol)
            try:
                if self._interrupted:
                    raise InterruptedError
                tried.settimeout(self.deadline.left() / (len(addresses) - index))
                tried.connect(address)
                tried.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as reason:
                tried.close()
                error = reason
            else:
                return tried
        raise error

    def _tunnel_through(self, proxy: SplitResult, connected: socket.socket) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"CONNECT {host}:{self.port} HTTP/1.1", f"Host: {host}:{self.port}"]
        credentials = basic_authorization(proxy)
        if credentials is not None:
            lines.append(f"Proxy-Authorization: {credentials}")
        timed: Any = _TimedSocket(connected, self.deadline)
        timed.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))
        response = HTTPResponse(timed, method="CONNECT")
        response.begin()
        response.close()
        if response.status != _OK:
            message = f"the proxy answers HTTP {response.status}"
            raise ProxyError(message)


class _TimedSocket:
    """What `http.client` uses of a socket."""

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        self._socket = connected
        self._deadline = deadline
        self._room = MOST_READ

    def begin(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._room = MOST_READ

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._socket.settimeout(self._deadline.left())
            rest = rest[self._socket.send(rest) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedFile(self))

    def close(self) -> None:
        self._socket.close()

    def unbuffered(self) -> io.RawIOBase:
        """Keeps the socket open until it is closed too."""
        return self._socket.makefile("rb", buffering=0)

    def receive(self, file: io.RawIOBase, buffer: Any) -> int:
        self._socket.settimeout(self._deadline.left())
        number = file.readinto(buffer) or 0
        self._room -= number
        if self._room < 0:
            raise AnswerTooLongError
        return number


class _BoundedFile(io.RawIOBase):
    def __init__(self, owner: _TimedSocket) -> None:
        self._owner = owner
        self._file = owner.unbuffered()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._owner.receive(self._file, buffer)

    def close(self) -> None:
        self._file.close()
        super().close()

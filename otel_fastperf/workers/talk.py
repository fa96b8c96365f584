"""Questions to siblings, and the thread that answers theirs.

A question is one line; the answer is one byte at once, which says that the sibling is not blocked, and then the text
with its length. Sockets have abstract names: nothing is left of them when a worker is killed. The name is a random
number, which only readers of the family's folder know, and both sides check that the other is the same user.
"""

import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from otel_fastperf.internals.guard import Guard

#: seconds until the first byte, after which a sibling counts as silent
PATIENCE: Final = 0.5
#: seconds until the last byte of a sibling that has begun; it may be stopped in the middle
_WHOLE: Final = 0.8
#: seconds for the first byte of a sibling whose answer takes its time, and between two looks whether it still hears
_LOOK: Final = 0.25
#: seconds until the last byte of such an answer
_LONGEST: Final = 10.0

_QUESTION: Final = 256
_LENGTH: Final = struct.Struct("<q")
_FAILED: Final = -1
_HEARD: Final = b"+"
_BACKLOG: Final = 128
#: seconds for one send or receive of a sibling that has connected
_SLOW: Final = 5.0
_CREDENTIALS: Final = struct.Struct("3i")

#: takes what follows the topic, and returns the answer
Topic = Callable[[str], bytes]


class Answering:
    """Answers siblings on a daemon thread, and each of them on one of its own, since some answers take their time."""

    def __init__(self, owner: bytes, topics: Mapping[str, Topic], guard: Guard) -> None:
        """Listen under the owner's name, and start the thread."""
        self._topics = topics
        self._guard = guard
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(_address(owner))
            self._listener.listen(_BACKLOG)
            threading.Thread(target=self._run, name="otel_fastperf-workers", daemon=True).start()
        except BaseException:
            self._listener.close()
            raise

    def close(self) -> None:
        """Answer nobody any more; answers under way are finished."""
        with suppress(OSError):
            # wakes the thread; in a forked child it would wake the parent's
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def forget(self) -> None:
        """Close the socket in a forked child, whose parent goes on to listen."""
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                threading.Thread(
                    target=self._serve, args=(connection,), name="otel_fastperf-workers-answer", daemon=True
                ).start()
            except RuntimeError as error:
                connection.close()
                self._guard.failed("workers", error)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(_SLOW)
                if not _is_same_user(connection):
                    return
                connection.sendall(_HEARD)
                line = b""
                while not line.endswith(b"\n") and len(line) < _QUESTION:
                    piece = connection.recv(_QUESTION)
                    if not piece:
                        return
                    line += piece
                topic, _, rest = line.decode().strip().partition(" ")
                if topic:
                    _send(connection, self._answer(topic, rest))
            except (OSError, ValueError):
                # the sibling has died or lost its patience
                return

    def _answer(self, topic: str, rest: str) -> bytes | None:
        try:
            return self._topics[topic](rest)
        except Exception as error:  # noqa: BLE001 - the sibling must learn of it
            self._guard.failed("workers", error)
            return None


def _send(connection: socket.socket, answer: bytes | None) -> None:
    connection.sendall(_LENGTH.pack(_FAILED) if answer is None else _LENGTH.pack(len(answer)) + answer)


def _address(owner: bytes) -> str:
    return f"\0otel_fastperf-{owner.hex()}"


def _is_same_user(connection: socket.socket) -> bool:
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(told)[1]
    return uid == os.geteuid()


class SiblingQuestion:
    """One question to one sibling.

    Attributes:
        answer: The answer; None if there is none.
        is_refused: Nobody listens: the sibling has ended.
        is_heard: The sibling has begun to answer, and is not known to have been stopped since.
    """

    def __init__(self, owner: bytes, line: str) -> None:
        self.answer: bytes | None = None
        self.is_heard: bool = False
        self.is_refused: bool = False
        self._received = bytearray()
        self.socket: socket.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(0.0)
        try:
            self.socket.connect(_address(owner))
            if _is_same_user(self.socket):
                self.socket.sendall(line.encode() + b"\n")
                return
        except (ConnectionRefusedError, BrokenPipeError, ConnectionResetError):
            self.is_refused = True
        except OSError:  # the queue of a blocked sibling is full
            pass
        self.socket.close()

    @property
    def is_open(self) -> bool:
        """Whether an answer may still come."""
        return self.socket.fileno() >= 0

    def receive(self) -> None:
        """Read what has come."""
        try:
            piece = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self._received += piece
        self.is_heard = self.is_heard or bool(piece)
        begin = len(_HEARD) + _LENGTH.size
        if len(self._received) >= begin:
            (length,) = _LENGTH.unpack_from(self._received, len(_HEARD))
            if length == _FAILED or len(self._received) >= begin + length:
                self.answer = None if length == _FAILED else bytes(memoryview(self._received)[begin : begin + length])
                self.socket.close()
                return
        if not piece:
            self.is_refused = not self.is_heard
            self.socket.close()

    def close(self) -> None:
        """Wait no longer."""
        self.socket.close()


def ask(owners: Mapping[int, bytes], line: str) -> dict[int, SiblingQuestion]:
    """Ask several siblings at once; each has 0.5 s for the first byte of its answer, and 0.8 s for all."""
    return _asked(owners, line, PATIENCE, _WHOLE)


def ask_at_length(owner: bytes, line: str) -> SiblingQuestion:
    """Ask a sibling whose answer takes its time: wait for as long as it hears questions."""
    question = SiblingQuestion(owner, line)
    deadline = time.monotonic() + _LONGEST
    with selectors.DefaultSelector() as selector:
        if question.is_open:
            selector.register(question.socket, selectors.EVENT_READ, question)
        while selector.get_map():
            _receive(selector, time.monotonic() + _LOOK)
            if question.is_open and not (question.is_heard and time.monotonic() < deadline and _hears(owner)):
                question.is_heard = False
                break
    question.close()
    return question


def _hears(owner: bytes) -> bool:
    """Whether a sibling is neither stopped nor blocked."""
    return _asked({0: owner}, "", _LOOK, 0.0)[0].is_heard


def _asked(owners: Mapping[int, bytes], line: str, first: float, whole: float) -> dict[int, SiblingQuestion]:
    asked = {slot: SiblingQuestion(owner, line) for slot, owner in owners.items()}
    started = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for question in asked.values():
            if question.is_open:
                selector.register(question.socket, selectors.EVENT_READ, question)
        _receive(selector, started + first)
        for key in list(selector.get_map().values()):
            if not key.data.is_heard:
                _drop(selector, key)
        _receive(selector, started + whole)
        for key in list(selector.get_map().values()):
            _drop(selector, key)
    return asked


def _receive(selector: selectors.BaseSelector, deadline: float) -> None:
    """Read answers until all are complete or the time is over."""
    while selector.get_map():
        left = deadline - time.monotonic()
        if left <= 0:
            return
        for key, _ in selector.select(left):
            key.data.receive()
            if not key.data.is_open:
                _drop(selector, key)


def _drop(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    selector.unregister(key.fd)
    key.data.close()

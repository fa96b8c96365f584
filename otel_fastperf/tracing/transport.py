"""How a batch of spans leaves the process: one attempt, one honest answer.

An attempt ends by its deadline whatever the receiver does, and its answer says what is to become of the batch: the
worker alone decides on the next attempt.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.internals.versions import installed_version
from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.otlp_encoder import EncodedSpan


class Verdict(Enum):
    """What is to be done with a batch after an attempt."""

    ACCEPTED = auto()
    #: keep it and try again: nobody there, no answer in time, or an answer that asks for it
    RETRY = auto()
    #: drop it: the same batch will be refused again
    REJECTED = auto()
    #: halve it: the receiver takes no request of this size
    TOO_LARGE = auto()
    #: keep it and try again: another thread has ended the call; nothing is known of the receiver
    INTERRUPTED = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one attempt. `reason` is for people: no header, no credential, no address in it."""

    verdict: Verdict
    reason: str = ""
    #: seconds that the receiver asked to wait
    retry_after: float | None = None
    #: spans of an accepted batch that the receiver did not take (OTLP's partial success)
    refused: int = 0


class Transport(Protocol):
    """Sends spans. Made and used by one thread of one process; `close` may come from any."""

    def send(self, spans: Sequence[EncodedSpan], timeout: float) -> Answer:
        """Try once, for up to `timeout` seconds."""

    def prepare_fork(self, *, idle: bool) -> None:
        """From another thread: make a fork safe. If not `idle`, end the call under way early."""

    def close(self) -> None:
        """From any thread: free sockets. A call under way ends early, as INTERRUPTED."""


class Destination(NamedTuple):
    """Where spans go: how one is written for it, what makes the transport, and whether it takes OTLP's bytes."""

    encode: Callable[[ReadableSpan], EncodedSpan]
    connect: Callable[[], Transport]
    takes_otlp: bool = True


def address(settings: TracesSettings) -> str:
    """Where spans go, fit for a log: without user, password and query."""
    if settings.exporter == "console":
        return "the console"
    return without_secrets(settings.url)


def without_secrets(address: str) -> str:
    """A URL without user, password and query."""
    url = urlsplit(address)
    return url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="").geturl()


def user_agent() -> str:
    """How we introduce ourselves to a receiver."""
    return f"otel-fastperf-python/{installed_version('otel-fastperf')}"


def printable(text: str, most: int = 160) -> str:
    """What a receiver says, fit for a log: one line without control characters."""
    return re.sub(r"[^ -~]", "?", text[:most]).strip()

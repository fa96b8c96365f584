"""How a batch of spans leaves the process: one attempt, one honest answer.

The official exporters answer SUCCESS or FAILURE, and retry inside. Neither is enough: what is rejected must be dropped,
what is refused must be kept, and an exit cannot wait for a retry. So each transport here lets its exporter encode,
compress, authenticate and send, but observes the one call that reaches the network and ends the exporter's own retries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.settings import TracesSettings


class Verdict(Enum):
    """What is to be done with a batch after an attempt."""

    ACCEPTED = auto()
    #: keep it and try again: nobody there, no answer in time, or an answer that asks for it
    RETRY = auto()
    #: drop it: the same batch will be refused again
    REJECTED = auto()
    #: it never reached the network; at least one of its spans cannot be encoded
    UNENCODABLE = auto()
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


class AttemptEnded(BaseException):
    """Raised through an exporter once the network has answered other than with success.

    A BaseException, so that no exporter catches it, logs it, and tries again.
    """


class Transport(Protocol):
    """Sends spans. Made and used by one thread of one process; `close` may come from any."""

    def send(self, spans: Sequence[ReadableSpan], timeout: float) -> Answer:
        """Try once, for about `timeout` seconds."""

    def prepare_fork(self, *, idle: bool) -> None:
        """From another thread: make a fork safe. If not `idle`, end the call under way early where the library can."""

    def close(self) -> None:
        """From any thread: free sockets. A call under way ends early where the library can do so, as INTERRUPTED."""


def address(settings: TracesSettings) -> str:
    """Where spans go, fit for a log: without user, password and query."""
    if settings.exporter == "console":
        return "the console"
    url = urlsplit(settings.url)
    return url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="").geturl()

"""Where finished spans wait for export: bounded, oldest out first, and every span accounted for exactly once.

A span waits here twice: as it ended, for a fraction of a second, and encoded, until it is delivered. At any moment at
which no call is under way: spans put == exported + dropped_* + queued.
"""

import math
import threading
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.metrics import Metrics
from otel_fastperf.tracing.encoded_queue import EncodedQueue
from otel_fastperf.tracing.otlp_encoder import EncodedSpan

#: spans that wait to be encoded; it takes a burst of a fifth of a second at full speed to get there
_MOST_UNENCODED: Final = 8192


class Outcome(StrEnum):
    """What became of a span: the label `outcome` of `fastperf_spans_total`."""

    EXPORTED = "exported"
    QUEUE_FULL = "dropped_queue_full"
    REJECTED = "dropped_rejected"
    TOO_LARGE = "dropped_too_large"
    ENCODING = "dropped_encoding"
    EXIT = "dropped_exit"


class Buffer:
    """Spans of one process. Any thread puts, one at a time encodes; one takes, and settles or puts back what it took.

    `size` is a bound in bytes for the encoded spans that wait, `number` one in spans, if there is to be one.
    """

    def __init__(self, size: int, number: int | None, metrics: Metrics) -> None:
        #: spans that were dropped, for whatever reason
        self.lost: int = 0
        #: those of them for which there was no room
        self.overflowed: int = 0
        self._size: Final = size
        self._number: Final = math.inf if number is None else number
        self._most_unencoded: Final = _MOST_UNENCODED if number is None else min(number, _MOST_UNENCODED)
        self._ended: deque[ReadableSpan] = deque()
        self._encoded = EncodedQueue()
        self._being_encoded = 0
        self._in_flight = 0
        self._closed = False
        self._lock = threading.Lock()
        self._counters = {outcome: metrics.spans.child(outcome) for outcome in Outcome}

    def __len__(self) -> int:
        """Encoded spans that wait, without those in flight."""
        return len(self._encoded)

    @property
    def weight(self) -> int:
        """Bytes of the encoded spans that wait."""
        return self._encoded.weight

    @property
    def unencoded(self) -> int:
        """Spans that wait to be encoded."""
        return len(self._ended)

    @property
    def queued(self) -> int:
        """Spans whose fate is open."""
        with self._lock:
            return len(self._ended) + self._being_encoded + len(self._encoded) + self._in_flight

    def put(self, span: ReadableSpan) -> None:
        """Append a span. Takes no lock unless the buffer is full: a deque is thread-safe by itself."""
        ended = self._ended
        ended.append(span)
        if len(ended) > self._most_unencoded:
            with self._lock:
                self._trim()
        if self._closed:
            # appended after, or while, close() emptied the deque; whoever comes last counts it
            self.close()

    def take_to_encode(self, number: int) -> list[ReadableSpan]:
        """The oldest that are not encoded, up to `number`."""
        with self._lock:
            spans = [self._ended.popleft() for _ in range(min(number, len(self._ended)))]
            self._being_encoded += len(spans)
            return spans

    def put_encoded(self, spans: list[EncodedSpan], failed: int) -> None:
        """What became of the spans taken to encode; what has no room is dropped, oldest first."""
        with self._lock:
            if not self._closed:
                self._being_encoded -= len(spans) + failed
                self._count(failed, Outcome.ENCODING)
                self._encoded.append(spans)
                self._trim()

    def put_encoded_elsewhere(self, spans: Sequence[EncodedSpan]) -> None:
        """Append spans that were encoded elsewhere; what has no room is dropped, oldest first."""
        with self._lock:
            if self._closed:
                self._count(len(spans), Outcome.EXIT)
            else:
                self._encoded.append(spans)
                self._trim()

    def take(self, number: int, size: int) -> list[EncodedSpan]:
        """The oldest, up to `number` and `size` bytes. They are in flight until settled or put back."""
        with self._lock:
            spans = self._encoded.take(number, size)
            self._in_flight += len(spans)
            return spans

    def settle(self, number: int, outcome: Outcome) -> None:
        """Count the fate of spans in flight. After `close()` they are counted already."""
        with self._lock:
            if not self._closed:
                self._in_flight -= number
                self._count(number, outcome)

    def put_back(self, spans: list[EncodedSpan]) -> None:
        """Return spans in flight to the head; what has no room is dropped, oldest first."""
        with self._lock:
            if not self._closed:
                self._in_flight -= len(spans)
                self._encoded.put_back(spans)
                self._trim()

    def close(self) -> int:
        """Give up what is here and in flight; how many spans that were. Later spans are dropped as they come."""
        with self._lock:
            self._closed = True
            number = self._in_flight + self._being_encoded + self._encoded.trim(0, 0)
            self._in_flight = self._being_encoded = 0
            while self._ended:
                self._ended.popleft()
                number += 1
            self._count(number, Outcome.EXIT)
            return number

    def _trim(self) -> None:
        number = self._encoded.trim(self._number, self._size)
        while len(self._ended) > self._most_unencoded:
            self._ended.popleft()
            number += 1
        self.overflowed += number
        self._count(number, Outcome.QUEUE_FULL)

    def _count(self, number: int, outcome: Outcome) -> None:
        if number:
            self._counters[outcome].inc(number)
            if outcome is not Outcome.EXPORTED:
                self.lost += number

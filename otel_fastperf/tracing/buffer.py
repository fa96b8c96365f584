"""Where finished spans wait for export: bounded, oldest out first, and every span accounted for exactly once.

At any moment at which no call is under way: spans put == exported + dropped_* + queued.
"""

import threading
from collections import deque
from enum import StrEnum
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.metrics import Metrics


class Outcome(StrEnum):
    """What became of a span: the label `outcome` of `fastperf_spans_total`."""

    EXPORTED = "exported"
    QUEUE_FULL = "dropped_queue_full"
    REJECTED = "dropped_rejected"
    ENCODING = "dropped_encoding"
    EXIT = "dropped_exit"


class Buffer:
    """Spans of one process. Any thread puts; one thread takes, and settles or puts back what it took."""

    def __init__(self, size: int, metrics: Metrics) -> None:
        #: spans that were dropped, for whatever reason
        self.lost: int = 0
        #: those of them for which there was no room
        self.overflowed: int = 0
        self._size: Final = size
        self._spans: deque[ReadableSpan] = deque()
        self._in_flight = 0
        self._closed = False
        self._lock = threading.Lock()
        self._counters = {outcome: metrics.spans.child(outcome) for outcome in Outcome}

    def __len__(self) -> int:
        """Spans that wait, without those in flight."""
        return len(self._spans)

    @property
    def queued(self) -> int:
        """Spans whose fate is open: those that wait and those in flight."""
        with self._lock:
            return len(self._spans) + self._in_flight

    def put(self, span: ReadableSpan) -> None:
        """Append a span. Takes no lock unless the buffer is full: a deque is thread-safe by itself."""
        spans = self._spans
        spans.append(span)
        if len(spans) > self._size:
            with self._lock:
                self._trim()
        if self._closed:
            # appended after, or while, close() emptied the deque; whoever comes last counts it
            self.close()

    def take(self, number: int) -> list[ReadableSpan]:
        """The oldest spans, up to `number`. They are in flight until settled or put back."""
        with self._lock:
            spans = [self._spans.popleft() for _ in range(min(number, len(self._spans)))]
            self._in_flight += len(spans)
            return spans

    def settle(self, number: int, outcome: Outcome) -> None:
        """Count the fate of spans in flight. After `close()` they are counted already."""
        with self._lock:
            if number and not self._closed:
                self._in_flight -= number
                self._count(number, outcome)

    def put_back(self, spans: list[ReadableSpan]) -> None:
        """Return spans in flight to the head; what has no room is dropped, oldest first."""
        with self._lock:
            if not self._closed:
                self._in_flight -= len(spans)
                self._spans.extendleft(reversed(spans))
                self._trim()

    def close(self) -> int:
        """Give up what is here and in flight; how many spans that were. Later spans are dropped as they come."""
        with self._lock:
            self._closed = True
            number = self._in_flight
            self._in_flight = 0
            while self._spans:
                self._spans.popleft()
                number += 1
            if number:
                self._count(number, Outcome.EXIT)
            return number

    def _trim(self) -> None:
        number = 0
        while len(self._spans) > self._size:
            self._spans.popleft()
            number += 1
        if number:
            self.overflowed += number
            self._count(number, Outcome.QUEUE_FULL)

    def _count(self, number: int, outcome: Outcome) -> None:
        self._counters[outcome].inc(number)
        if outcome is not Outcome.EXPORTED:
            self.lost += number

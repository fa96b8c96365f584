"""Encoded spans in order of their end, and what they weigh in memory."""

from collections import deque
from collections.abc import Iterable
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_fastperf.tracing.otlp_encoder import EncodedSpan

#: bytes that CPython adds to the data of a span: the object's head, its rounding up, and two references
_OVERHEAD: Final = 64

#: an app may make a tracer with a name of its own for each request
_MOST_KNOWN: Final = 1000

_Origin = tuple[Resource, InstrumentationScope | None]

#: has no span
_NO_ORIGIN: Final[_Origin] = (Resource({}), None)


class EncodedQueue:
    """A queue for one thread at a time: the caller locks.

    It keeps no object per span but its bytes. Tens of thousands of tuples would be walked at each full collection of
    garbage, and would weigh a fifth of the spans.
    """

    def __init__(self) -> None:
        #: what the spans here weigh
        self.weight: int = 0
        self._data: deque[bytes] = deque()
        #: in step with the data; the tuples are shared
        self._origins: deque[_Origin] = deque()
        #: by the ids of both, which are computed sooner than their hashes, which the SDK makes of their contents
        self._known: dict[tuple[int, int], _Origin] = {}

    def __len__(self) -> int:
        return len(self._data)

    def append(self, spans: Iterable[EncodedSpan]) -> None:
        """Add the newest."""
        data_of, origins, weight = self._data, self._origins, 0
        origin: _Origin = _NO_ORIGIN
        for resource, scope, data in spans:
            # most have the origin of the one before
            if scope is not origin[1] or resource is not origin[0]:
                origin = self._shared(resource, scope)
            data_of.append(data)
            origins.append(origin)
            weight += len(data) + _OVERHEAD
        self.weight += weight

    def put_back(self, spans: Iterable[EncodedSpan]) -> None:
        """Add what is older than all that is here; given oldest first."""
        for resource, scope, data in reversed(tuple(spans)):
            self._data.appendleft(data)
            self._origins.appendleft(self._shared(resource, scope))
            self.weight += len(data) + _OVERHEAD

    def take(self, number: int, weight: float) -> list[EncodedSpan]:
        """Remove the oldest: up to `number` that together weigh no more than `weight`, but one at least."""
        taken: list[EncodedSpan] = []
        left = weight
        while self._data and len(taken) < number:
            left -= len(self._data[0]) + _OVERHEAD
            if left < 0 and taken:
                break
            taken.append(self._pop())
        return taken

    def trim(self, number: float, weight: float) -> int:
        """Drop the oldest until there are `number` at most, of this weight at most; how many were dropped."""
        dropped = 0
        while self._data and (len(self._data) > number or self.weight > weight):
            self._pop()
            dropped += 1
        return dropped

    def _pop(self) -> EncodedSpan:
        data = self._data.popleft()
        self.weight -= len(data) + _OVERHEAD
        return EncodedSpan(*self._origins.popleft(), data)

    def _shared(self, resource: Resource, scope: InstrumentationScope | None) -> _Origin:
        """One tuple for all of the same."""
        key = (id(resource), id(scope))
        origin = self._known.get(key)
        if origin is None or origin[0] is not resource or origin[1] is not scope:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            origin = self._known[key] = (resource, scope)
        return origin

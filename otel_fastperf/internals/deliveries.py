"""What delivers telemetry from time to time, and can be asked to deliver at once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

#: takes the seconds to wait; True if all was delivered or given up by then
Flush: TypeAlias = Callable[[float], bool]


class Deliveries:
    """Those of one app."""

    def __init__(self) -> None:
        """None yet."""
        self._flushes: tuple[Flush, ...] = ()

    @contextmanager
    def joined(self, flush: Flush) -> Iterator[None]:
        """Have `flush` called with the others, until the context manager exits."""
        self._flushes = (*self._flushes, flush)
        try:
            yield
        finally:
            self._flushes = tuple(each for each in self._flushes if each is not flush)

    def flush(self, timeout: float) -> bool:
        """Deliver now. Blocks for up to `timeout` seconds in all."""
        deadline = time.monotonic() + timeout
        settled = True
        for flush in self._flushes:
            # the others deliver also after one that has failed
            settled = flush(max(deadline - time.monotonic(), 0.0)) and settled
        return settled

"""The requests that are being served, oldest first: those of each event loop, in the order of their arrival."""

from collections.abc import Callable
from typing import Final

from otel_fastperf.requests.record import RequestRecord

#: called with a request whose thread has no tick ahead
Watch = Callable[[RequestRecord], None]


class InFlight:
    """The requests in flight of one `Telemetry`, and when each thread that runs an event loop looks at its own next.

    A thread looks only while it has requests in flight: the first of them starts the ticks, and the ticks end with the
    last. So an idle service has none, and a request costs two operations on a dict.
    """

    __slots__ = ("awake", "records", "watch")

    def __init__(self) -> None:
        self.records: Final[dict[RequestRecord, None]] = {}
        #: by thread: until when, by `time.perf_counter()`, a tick that comes is relied on. A loop may end before it
        self.awake: Final[dict[int, float]] = {}
        self.watch: Watch | None = None

    def add(self, record: RequestRecord) -> None:
        """A request has arrived. Called on the thread of its event loop."""
        watch = self.watch
        if watch is not None:
            self.records[record] = None
            if self.awake.get(record.loop_thread, 0.0) < record.started:
                watch(record)

    def remove(self, record: RequestRecord) -> None:
        """It has ended."""
        self.records.pop(record, None)

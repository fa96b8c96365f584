"""The sender's threads: one encodes spans; one sends them in batches, keeps what is not delivered, and ends in time.

All waits are on events and on the monotonic clock: a flush, a fork or the exit cuts them short, and a step of the
system clock changes nothing.
"""

import math
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from typing import Final

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.buffer import Buffer
from otel_fastperf.tracing.delivery import AGAIN, Delivery
from otel_fastperf.tracing.log_once import Notices
from otel_fastperf.tracing.otlp_encoder import EncodedSpan
from otel_fastperf.tracing.packer import Packer
from otel_fastperf.tracing.transport import Destination, Verdict, address

#: bytes of a batch before compression; collectors take 4 MiB and more, and what they reject costs that much
_MOST_BYTES: Final = 2**20
#: seconds between attempts while the receiver is in trouble: doubled from the first to the last, each ±20 %
_FIRST_PAUSE: Final = 1.0
_LAST_PAUSE: Final = 5.0
#: a receiver may ask for a longer pause (Retry-After), up to this
_LONGEST_PAUSE: Final = 30.0
#: at exit there is no time for these
_PAUSE_AT_EXIT: Final = 0.1
#: share of the time at exit that is kept for ending a call that does not end by itself
_RESERVE: Final = 0.1
#: seconds that a fork waits for a call under way
_FORK_PATIENCE: Final = 0.25


class Worker:
    """Buffer, threads and transport of one process. The threads start with the first span."""

    def __init__(self, settings: TracesSettings, destination: Destination, metrics: Metrics, guard: Guard) -> None:
        self.buffer: Final = Buffer(settings.queue_bytes, settings.queue_size, metrics)
        self._batch_size: Final = min(settings.batch_size, settings.queue_size or settings.batch_size)
        self._batch_bytes: Final = min(_MOST_BYTES, settings.queue_bytes)
        self._delay: Final = settings.delay_ms / 1000
        self._timeout: Final = settings.timeout
        self._guard = guard
        self._notices = Notices(address(settings), settings.queue_size, settings.queue_bytes)
        self._delivery = Delivery(self.buffer, destination.connect, self._notices, guard)
        self._packer = Packer(self.buffer, destination.encode, self._on_packed, self._notices, guard)

        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        #: a full batch waits, or somebody is in a hurry
        self._wake = threading.Event()
        #: a flush or the exit: not even trouble is a reason to wait
        self._hurry = threading.Event()
        self._flushes: deque[_Flush] = deque()
        self._deadline: float | None = None
        #: attempts that failed since the last that did not
        self._failures = 0
        #: start of the first of them, on the monotonic clock
        self._failing_since: float | None = None
        self._pause = self._delay
        #: held while a batch is under way, so that a fork finds no socket in use
        self._sending = threading.Lock()
        self._no_fork = threading.Event()
        self._no_fork.set()
        self._forking: int | None = None

    # what the app's threads call

    def put(self, span: ReadableSpan, *, soon: bool = False) -> None:
        """Take a finished span. Waits for nothing. `soon`: the caller is about to call `encode`."""
        self.buffer.put(span)
        if self._thread is None:
            self._start()
        if not soon:
            self._packer.came()

    def put_encoded(self, spans: Sequence[EncodedSpan]) -> None:
        """Take finished spans that have been encoded, oldest first."""
        self.buffer.put_encoded_elsewhere(spans)
        if self._thread is None:
            self._start()
        self._on_packed()

    def encode(self) -> None:
        """Encode what has ended, on this thread."""
        while self.buffer.unencoded and not self.is_closed and self._packer.pack():
            pass

    def flush(self, timeout: float) -> bool:
        """Send what is here now; True when all of it has been settled within `timeout` seconds."""
        if self._thread is None and self.buffer.queued:
            # the thread that put the first span is about to do this
            self._start()
        if self._thread is None or self._deadline is not None:
            return self.buffer.queued == 0
        flush = _Flush()
        self._flushes.append(flush)
        self._nudge()
        return flush.done.wait(timeout) and flush.settled

    def close(self, timeout: float) -> None:
        """Send what is here, for up to `timeout` seconds; drop and count the rest. Later spans are dropped."""
        with self._starting:
            if self._deadline is not None:
                return
            self._deadline = time.monotonic() + timeout * (1 - _RESERVE)
        self._nudge()
        self._packer.end()
        if self._thread is not None:
            self._thread.join(timeout * (1 - _RESERVE))
            if self._thread.is_alive():
                self._delivery.hang_up()
                self._thread.join(timeout * _RESERVE)
        left = self.buffer.close()
        if left:
            self._notices.left_at_exit(left, timeout)

    def is_current_thread(self) -> bool:
        """Whether the caller is one of this worker's threads."""
        ours = self._thread is not None and self._thread.ident == threading.get_ident()
        return ours or self._packer.is_current_thread()

    @property
    def failing_seconds(self) -> float:
        """For how long attempts have failed that are repeated; 0 if the last one did not."""
        since = self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_closed(self) -> bool:
        """Whether `close` has been called."""
        return self._deadline is not None

    def before_fork(self) -> None:
        """Let the call under way end, or end it: a child inherits no socket in use, and no lock that none will free.

        gRPC cannot be used in a child at all if another thread was inside it at the fork.
        """
        self._no_fork.clear()
        idle = self._sending.acquire(timeout=_FORK_PATIENCE)
        self._delivery.prepare_fork(idle=idle)
        if idle or self._sending.acquire(timeout=_FORK_PATIENCE):
            self._forking = threading.get_ident()
        self._packer.before_fork(_FORK_PATIENCE)

    def after_fork(self) -> None:
        """In the parent: go on."""
        self._packer.after_fork()
        if self._forking == threading.get_ident():
            self._forking = None
            self._sending.release()
        self._no_fork.set()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and self._deadline is None:
                # an empty context: the thread must not keep alive what the first request has set
                run = Context().run
                thread = threading.Thread(target=run, args=(self._run,), name="otel_fastperf-sender", daemon=True)
                thread.start()
                self._thread = thread
                self._packer.start()

    def _nudge(self) -> None:
        self._hurry.set()
        self._wake.set()

    # what runs on the thread that sends, but for _on_packed

    def _run(self) -> None:
        with suppress_instrumentation():
            running = True
            while running:
                try:
                    running = self._turn()
                except Exception as error:  # noqa: BLE001 - the thread must not die before its time
                    self._guard.failed("sender", error)
            self._delivery.hang_up()

    def _turn(self) -> bool:
        """Wait, send, answer those who wait for it. False when the thread is to end."""
        in_trouble = self._failures > 0
        woken = (self._hurry if in_trouble else self._wake).wait(self._pause)
        self._wake.clear()
        self._hurry.clear()
        flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
        closing = self._deadline is not None
        try:
            if closing:
                self._send_the_last()
            else:
                self._send_due(everything=in_trouble or not woken or bool(flushes))
        finally:
            for flush in flushes:
                flush.settled = self._failures == 0
                flush.done.set()
        return not closing

    def _send_due(self, *, everything: bool) -> None:
        """Full batches, or all that is here at the start."""
        due = self._due() if everything else 0
        while (due > 0 or self._is_full()) and self._time_left() > 0:
            sent = self._send_batch()
            if not sent:
                return
            due -= sent

    def _send_the_last(self) -> None:
        """All that is here, until the time is up or two attempts in a row have failed."""
        while self.buffer.queued and self._time_left() > 0:
            failures = self._failures
            self._send_due(everything=True)
            if self._failures:
                if failures:
                    return
                time.sleep(_PAUSE_AT_EXIT)

    def _send_batch(self) -> int:
        """How many spans were settled; 0 when there are none or they were put back."""
        self._no_fork.wait(2 * _FORK_PATIENCE)
        with self._sending:
            batch = self.buffer.take(self._batch_size, self._batch_bytes)
            if not batch:
                return 0
            began = time.monotonic()
            answer = self._delivery.deliver(batch, self._next_timeout, in_trouble=self._failures > 0)
            if answer.verdict is Verdict.RETRY:
                self._failures += 1
                self._failing_since = self._failing_since or began
                self._pause = _pause(self._failures, answer.retry_after)
                self._notices.trouble(answer, self.buffer.lost)
            elif answer.verdict is not Verdict.INTERRUPTED:
                self._failures = 0
                self._failing_since = None
                self._pause = self._delay
            return 0 if answer.verdict in AGAIN else len(batch)

    def _due(self) -> int:
        """The number of all spans that have ended by now, after encoding them, as far as there is time."""
        self._packer.pack_waiting(lambda: self._time_left() > 0)
        return len(self.buffer)

    def _on_packed(self) -> None:
        if self._is_full() and not self._wake.is_set():
            self._wake.set()

    def _is_full(self) -> bool:
        return len(self.buffer) >= self._batch_size or self.buffer.weight >= self._batch_bytes

    def _next_timeout(self) -> float:
        return min(self._timeout, self._time_left())

    def _time_left(self) -> float:
        return math.inf if self._deadline is None else self._deadline - time.monotonic()


class _Flush:
    """Somebody waits until what was there has been sent."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.settled = False


def _pause(failures: int, retry_after: float | None) -> float:
    pause = min(_LAST_PAUSE, _FIRST_PAUSE * 2.0 ** (min(failures, 8) - 1)) * random.uniform(0.8, 1.2)  # noqa: S311
    return min(max(pause, retry_after or 0.0), _LONGEST_PAUSE)

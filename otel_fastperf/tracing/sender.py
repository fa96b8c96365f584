"""The span processor that exports: it never blocks who ends a span, and works in each forked child by itself."""

from functools import partial

from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.internals.backlog import Backlog
from otel_fastperf.internals.forks import on_fork
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.otlp_encoder import EncodedSpan
from otel_fastperf.tracing.safe_sdk import ReadsLate, TakeEncoded
from otel_fastperf.tracing.transport import Destination
from otel_fastperf.tracing.worker import Worker


class Sender(ReadsLate):
    """Hands finished spans to the worker of this process."""

    def __init__(
        self,
        settings: TracesSettings,
        destination: Destination,
        metrics: Metrics,
        guard: Guard,
        backlog: Backlog | None = None,
    ) -> None:
        """Prepare. Spans that end in the `backlog` are encoded there, which saves waking another thread."""
        self._backlog = backlog
        self._exit_timeout = settings.exit_timeout
        self._guard = guard
        self._new_worker = partial(Worker, settings, destination, metrics, guard)
        self._worker = self._new_worker()
        self._takes_otlp = destination.takes_otlp
        #: encoded in the batch of the backlog that is under way: put together, they take one lock
        self._of_batch: list[EncodedSpan] = []
        if backlog is not None:
            backlog.after_batch(self.encode)
        on_fork(before=self._before_fork, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child)

    @property
    def queued(self) -> int:
        """Spans that wait for export."""
        return self._worker.buffer.queued

    @property
    def failing_seconds(self) -> float:
        """For how long the receiver has not taken spans that are sent again; 0 if it takes them."""
        return self._worker.failing_seconds

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span. Never waits, never raises."""
        try:
            if span.context is not None and span.context.trace_flags.sampled:
                self._worker.put(span, soon=self._backlog is not None and self._backlog.works_here)
        except Exception as error:  # noqa: BLE001 - most likely: no thread can be started any more
            self._guard.failed("sender", error)

    @property
    def take_encoded(self) -> TakeEncoded | None:
        """Takes a span that has been encoded as OTLP, if that is what is sent."""
        return self._take_encoded if self._takes_otlp else None

    def _take_encoded(self, span: EncodedSpan) -> None:
        if self._backlog is not None and self._backlog.works_here:
            self._of_batch.append(span)
        else:
            self._put_encoded([span])

    def _put_encoded(self, spans: list[EncodedSpan]) -> None:
        try:
            self._worker.put_encoded(spans)
        except Exception as error:  # noqa: BLE001 - most likely: no thread can be started any more
            self._guard.failed("sender", error)

    def encode(self) -> None:
        """Encode what has ended, on this thread. Never raises."""
        if self._of_batch:
            spans, self._of_batch = self._of_batch, []
            self._put_encoded(spans)
        try:
            self._worker.encode()
        except Exception as error:  # noqa: BLE001 - the encoder's thread tries again
            self._guard.failed("sender", error)

    def flush(self, timeout: float) -> bool:
        """Export what has ended; True when it is settled within `timeout` seconds."""
        return self._worker.flush(timeout)

    def close(self, timeout: float) -> None:
        """Export what has ended within `timeout` seconds, then end. The second call does nothing."""
        self._worker.close(timeout)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """The SDK's name for `flush`."""
        return self.flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """The SDK's name for `close`."""
        self.close(self._exit_timeout)

    def is_current_thread(self) -> bool:
        """Whether the caller is a thread that exports."""
        return self._worker.is_current_thread()

    def _before_fork(self) -> None:
        self._worker.before_fork()

    def _after_in_parent(self) -> None:
        self._worker.after_fork()

    def _after_in_child(self) -> None:
        """Spans that wait belong to the parent, which sends them; the threads have not come along."""
        self._of_batch = []
        if not self._worker.is_closed:
            self._worker = self._new_worker()

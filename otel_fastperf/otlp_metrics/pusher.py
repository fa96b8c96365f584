"""The thread that reads the metrics every `metrics.export_interval_ms` and pushes them to a collector.

A push that fails is not repeated: the next one tells as much. With delta temporality its counts are lost, as the SDK's
are. It is counted in `fastperf_telemetry_errors_total{part="metrics_export"}`, and the log tells of the first.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Final

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

from otel_fastperf.internals.forks import on_fork
from otel_fastperf.settings import Settings, signal_url
from otel_fastperf.tracing.exporters import sdk_exporter
from otel_fastperf.tracing.log_once import OutageNotice, exporters_hushed
from otel_fastperf.tracing.transport import without_secrets

if TYPE_CHECKING:
    import logging

#: seconds at the end of a shutdown in which an exporter gives up
_LAST_WORDS: Final = 0.2
_UNWANTED: Final = (
    "Remedy: send them to what takes metrics (OTEL_EXPORTER_OTLP_METRICS_ENDPOINT), such as the stack's collector, or"
    " unset OTEL_METRICS_EXPORTER"
)

Read = Callable[[], MetricsData]


@contextmanager
def export_metrics(
    settings: Settings, read: Callable[[], Read], count_failure: Callable[[], None]
) -> Iterator["MetricPusher"]:
    """Push what `read()()` returns until the context manager exits, and once more then.

    `read()` is called once in each process, so that a forked one counts from its own start.

    Raises:
        SetupError: The exporter's package is missing.
    """
    pusher = MetricPusher(settings, read, count_failure, sdk_exporter("metrics", settings.metrics.protocol))
    with exporters_hushed(pusher.is_current_thread, pusher.heard):
        pusher.start()
        try:
            yield pusher
        finally:
            pusher.stop(settings.traces.exit_timeout)


def metrics_url(settings: Settings) -> str:
    """Where metrics go; over HTTP with the path of the signal."""
    return signal_url(settings.metrics.endpoint, settings.traces.base_endpoint, settings.metrics.protocol, "metrics")


class MetricPusher:
    """The thread of one app."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Read],
        count_failure: Callable[[], None],
        make: Callable[..., MetricExporter],
    ) -> None:
        """`make` makes the exporter."""
        self._make = make
        self._interval = settings.metrics.export_interval_ms / 1000
        self._settings = settings
        self._read = read
        self._count_failure = count_failure
        self._stopping = threading.Event()
        self._wake = threading.Event()
        #: set when the push that was asked for is over
        self._asked: tuple[threading.Event, ...] = ()
        self._asking = threading.Lock()
        self._thread: threading.Thread | None = None
        self._exporter: MetricExporter | None = None
        where = without_secrets(metrics_url(settings))
        fate = "requests are not affected, and /metrics has them"
        self._notice = OutageNotice("metrics", where, fate, unwanted=_UNWANTED)
        self.heard: Callable[[logging.LogRecord], None] = self._notice.heard
        self._closed = False
        on_fork(after_in_child=self._start_anew)

    def is_current_thread(self) -> bool:
        """Whether it is the caller's."""
        return self._thread is threading.current_thread()

    def start(self) -> None:
        """Start it."""
        # an empty context: the thread must not keep alive what its starter has set
        thread = threading.Thread(
            target=Context().run, args=(self._run,), name="otel_fastperf-metrics-export", daemon=True
        )
        self._thread = thread
        thread.start()

    def stop(self, timeout: float) -> None:
        """Push once more; wait for up to `timeout` seconds."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(max(timeout - _LAST_WORDS, 0.0))
            self._closed = True
            if self._exporter is not None:
                # ends an attempt that goes on
                self._exporter.shutdown(timeout_millis=0)
            self._thread.join(_LAST_WORDS)

    def flush(self, timeout: float) -> bool:
        """Push now; wait for up to `timeout` seconds. True if the push is over, also if it failed."""
        over = threading.Event()
        with self._asking:
            self._asked = (*self._asked, over)
        self._wake.set()
        return over.wait(timeout)

    def _start_anew(self) -> None:
        """In a forked child: neither thread nor connection have come along."""
        if not self._stopping.is_set():
            self._stopping, self._wake = threading.Event(), threading.Event()
            self._asked, self._asking = (), threading.Lock()
            self._exporter = None
            self.start()

    def _run(self) -> None:
        with suppress_instrumentation():
            read = self._read()
            while not self._stopping.is_set():
                self._wake.wait(self._interval)
                self._wake.clear()
                if not self._stopping.is_set():
                    self._answer(read)
            self._answer(read)

    def _answer(self, read: Read) -> None:
        with self._asking:
            asked, self._asked = self._asked, ()
        self._push(read)
        for over in asked:
            over.set()

    def _push(self, read: Read) -> None:
        if self._closed:
            return
        try:
            if self._exporter is None:
                self._exporter = self._make(endpoint=metrics_url(self._settings))
            accepted = self._exporter.export(read()) is MetricExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - the thread must not die
            accepted = False
        if not accepted:
            self._count_failure()
        self._notice.sent(accepted=accepted)

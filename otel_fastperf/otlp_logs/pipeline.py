"""The SDK's way out for log records: a queue, batches, an exporter. One for each process.

Its queue drops the oldest, and an export that fails is not repeated beyond the exporter's own retries. What is lost is
counted in `fastperf_telemetry_errors_total{part="logs_export"}`, and the log tells of the first.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.instrumentation.utils import is_instrumentation_enabled, suppress_instrumentation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from otel_fastperf.internals.forks import on_fork
from otel_fastperf.settings import Settings, signal_url
from otel_fastperf.tracing.exporters import sdk_exporter
from otel_fastperf.tracing.log_once import OutageNotice, exporters_hushed
from otel_fastperf.tracing.transport import without_secrets

if TYPE_CHECKING:
    import logging

#: records in a batch, and seconds that a record waits for it
_BATCH: Final = 512
_DELAY: Final = 1.0
_UNWANTED: Final = (
    "Remedy: a log store behind that collector (the stack's compose.logs.yml, or the overlay logs.yaml), or unset"
    " OTEL_LOGS_EXPORTER"
)
#: seconds at the end of a shutdown in which an exporter gives up
_LAST_WORDS: Final = 0.2

#: counts that many lost records
CountLost = Callable[[int], None]


@contextmanager
def open_pipeline(
    settings: Settings, resource: Callable[[], Resource], count_lost: CountLost
) -> Iterator["LogPipeline"]:
    """The pipeline, until the context manager exits, which delivers the last records.

    Raises:
        SetupError: The exporter's package is missing.
    """
    pipeline = LogPipeline(settings, resource, count_lost)
    # only exporters log while instrumentation is suppressed
    with exporters_hushed(lambda: not is_instrumentation_enabled(), pipeline.heard):
        try:
            yield pipeline
        finally:
            pipeline.close(settings.traces.exit_timeout)


def logs_url(settings: Settings) -> str:
    """Where log records go; over HTTP with the path of the signal."""
    return signal_url(settings.logs.endpoint, settings.traces.base_endpoint, settings.logs.protocol, "logs")


class LogPipeline:
    """Emits log records. Safe to use from any thread, and inside of a signal handler. Waits for no other thread."""

    def __init__(self, settings: Settings, resource: Callable[[], Resource], count_lost: CountLost) -> None:
        """Open it. `resource()` is called once in each process."""
        self._settings = settings
        self._resource = resource
        self._count_lost = count_lost
        self._exporter_class = _reporting(sdk_exporter("logs", settings.logs.protocol), self.exported)
        where = without_secrets(logs_url(settings))
        self._notice = OutageNotice("log records", where, "the app's own handlers have them", unwanted=_UNWANTED)
        self.heard: Callable[[logging.LogRecord], None] = self._notice.heard
        self._closed = False
        self._emitted = self._settled = 0
        # a signal handler may log while its thread counts
        self._counting = threading.RLock()
        self._opening = threading.Lock()
        self._exporter: Any = None
        self._provider: LoggerProvider | None = self._opened()
        on_fork(after_in_child=self._start_anew)

    def emit(self, logger: str, **fields: Any) -> None:
        """Emit a record by the logger of this name; `fields` are those of the API's `Logger.emit`."""
        with self._counting:
            self._emitted += 1
        provider = self._provider or self._reopened()
        if provider is None:
            self._lose(1)
        else:
            provider.get_logger(logger).emit(**fields)

    def settle(self) -> None:
        """Count what the queue has dropped."""
        self._lose(self._emitted - self._settled - self._settings.logs.queue_size - _BATCH)

    def flush(self, timeout: float) -> bool:
        """Deliver what waits; block for up to `timeout` seconds. True if all of it was settled."""
        provider = self._provider
        if provider is None:
            return True
        # the SDK waits for its exporter, however long that tries
        flushing = threading.Thread(target=_flushed, args=(provider,), name="otel_fastperf-logs-flush", daemon=True)
        flushing.start()
        flushing.join(timeout)
        return not flushing.is_alive()

    def close(self, timeout: float) -> None:
        """Deliver what waits; block for up to `timeout` seconds."""
        self._closed = True
        provider = self._provider
        if provider is not None:
            ending = threading.Thread(target=_ended, args=(provider,), name="otel_fastperf-logs-end", daemon=True)
            ending.start()
            ending.join(max(timeout - _LAST_WORDS, 0.0))
            if ending.is_alive():
                # ends an attempt that goes on
                self._exporter.shutdown()
                ending.join(_LAST_WORDS)
        self._lose(self._emitted - self._settled)

    def exported(self, number: int, *, accepted: bool) -> None:
        """A batch has been exported, or not. Called on the SDK's thread."""
        if accepted:
            with self._counting:
                self._settled += number
        else:
            self._lose(number)
        if not self._closed:
            self._notice.sent(accepted=accepted)

    def _lose(self, number: int) -> None:
        if number > 0:
            with self._counting:
                self._settled += number
            self._count_lost(number)

    def _opened(self) -> LoggerProvider:
        self._exporter = self._exporter_class(endpoint=logs_url(self._settings))
        provider = LoggerProvider(resource=self._resource(), shutdown_on_exit=False)
        processor = BatchLogRecordProcessor(
            self._exporter,
            schedule_delay_millis=_DELAY * 1000,
            max_export_batch_size=min(_BATCH, self._settings.logs.queue_size),
            max_queue_size=self._settings.logs.queue_size,
        )
        provider.add_log_record_processor(processor)
        return provider

    def _reopened(self) -> LoggerProvider | None:
        """That of a forked child. None while it is made: the SDK may log meanwhile, and must not wait for it."""
        if not self._opening.acquire(blocking=False):
            return None
        try:
            if self._provider is None:
                self._provider = self._opened()
            return self._provider
        finally:
            self._opening.release()

    def _start_anew(self) -> None:
        """In a forked child: neither thread nor connection have come along."""
        self._counting, self._opening = threading.RLock(), threading.Lock()
        self._provider = None
        self._emitted = self._settled = 0


def _ended(provider: LoggerProvider) -> None:
    with suppress_instrumentation():
        provider.shutdown()


def _flushed(provider: LoggerProvider) -> None:
    with suppress_instrumentation():
        provider.force_flush()


def _reporting(exporter: Any, exported: Callable[..., None]) -> Any:
    """The exporter's class, which tells what became of each batch."""

    class Reporting(exporter):  # type: ignore[misc]
        def export(self, batch: Sequence[Any], *arguments: Any, **options: Any) -> Any:
            accepted = False
            try:
                result = super().export(batch, *arguments, **options)
                accepted = result.name == "SUCCESS"
            finally:
                exported(len(batch), accepted=accepted)
            return result

    return Reporting

"""What a collector in trouble costs in log lines: one warning, and one line when it is over."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from otel_fastperf.tracing.transport import Answer, Verdict

_logger: Final = logging.getLogger("otel_fastperf")

#: seconds between two warnings: a collector that comes and goes is told of once a minute
_QUIET: Final = 60.0

#: what exporters log of a receiver without this signal: the path of HTTP, or the service of gRPC, does not exist
_UNWANTED: Final = frozenset({"404", "StatusCode.UNIMPLEMENTED"})

_REMEDIES: Final = {
    Verdict.RETRY: "Remedy: start the collector there, or correct OTEL_EXPORTER_OTLP_ENDPOINT",
    Verdict.REJECTED: "Remedy: correct OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_HEADERS",
    Verdict.ACCEPTED: "Remedy: sample (OTEL_TRACES_SAMPLER), or raise {bound}",
}


class Notices:
    """Says when spans begin to be lost or late, and when that ends. For the sender's threads, and for the exit."""

    def __init__(self, where: str, number: int | None, size: int) -> None:
        self._where = where
        room = f"{size / 2**20:.3g} MiB" if number is None else str(number)
        self._bound = "OTEL_FASTPERF_TRACES_QUEUE_BYTES" if number is None else "OTEL_BSP_MAX_QUEUE_SIZE"
        self._fate = {
            Verdict.RETRY: f"the newest {room} are kept for later",
            Verdict.REJECTED: "they are dropped",
            Verdict.ACCEPTED: "the oldest are dropped",
        }
        self._since: float | None = None
        self._lost_before = 0
        self._said = False
        self._last_said = -_QUIET
        self._reason = ""
        self._unencodable_said = False
        self._too_large_said = False

    def trouble(self, answer: Answer, lost: int) -> None:
        """Spans were not taken; `lost` were dropped so far, since the process began."""
        self._reason = answer.reason
        if self._since is not None:
            return
        self._since, self._lost_before = time.monotonic(), lost
        self._said = self._since - self._last_said >= _QUIET
        if self._said:
            self._last_said = self._since
            _logger.warning(
                "otel_fastperf: spans do not reach %s (%s): %s; requests are not affected. Drops are counted in"
                " fastperf_spans_total. %s. This is said once.",
                self._where,
                answer.reason,
                self._fate[answer.verdict],
                _REMEDIES[answer.verdict].format(bound=self._bound),
            )

    def well(self, lost: int) -> None:
        """Spans are taken, none are dropped."""
        if self._since is not None and self._said:
            seconds = time.monotonic() - self._since
            number = lost - self._lost_before
            _logger.info("otel_fastperf: spans reach %s again after %.0f s; %d were lost", self._where, seconds, number)
        self._since = None
        self._reason = ""

    def unencodable(self, name: str, reason: str) -> None:
        """A span was dropped since it cannot be written as OTLP."""
        if not self._unencodable_said:
            self._unencodable_said = True
            why = f" ({reason})" if reason else ""
            text = "otel_fastperf: span %a cannot be encoded%s and was dropped; others like it are only counted"
            _logger.warning(text, name, why)

    def too_large(self, size: int, reason: str) -> None:
        """A span was dropped since the receiver takes none of this size."""
        if not self._too_large_said:
            self._too_large_said = True
            text = (
                "otel_fastperf: a span of %d bytes is too large for %s (%s) and was dropped; others like it are only"
                " counted. Remedy: raise the receiver's limit, or record shorter attributes"
            )
            _logger.warning(text, size, self._where, reason)

    def left_at_exit(self, number: int, seconds: float) -> None:
        """Spans were given up."""
        why = f" ({self._reason})" if self._reason else ""
        text = "otel_fastperf: %d spans did not reach %s within %.1f s at exit%s and are lost"
        _logger.warning(text, number, self._where, seconds, why)


class OutageNotice:
    """Says, once a minute at most, that a receiver does not take what the SDK sends, and that it does again."""

    def __init__(self, what: str, where: str, fate: str, *, unwanted: str) -> None:
        """`what` does not reach `where`, without secrets; `fate` is what becomes of it, in a clause.

        `unwanted` is the remedy if the receiver is there and takes nothing of this kind.
        """
        self._what = what
        self._where = where
        self._fate = fate
        self._unwanted = unwanted
        # an attempt and what is logged of it are on one thread; other exporters log on others
        self._heard = threading.local()
        self._in_trouble = self._said = False
        self._last_said = -_QUIET

    def heard(self, record: logging.LogRecord) -> None:
        """What an exporter logs of a failure, the reason in it: on the thread of the attempt, before that ends."""
        named = {str(each) for each in record.args} if isinstance(record.args, tuple) else set()
        self._heard.is_unwanted = not _UNWANTED.isdisjoint(named)

    def sent(self, *, accepted: bool) -> None:
        """An attempt has ended, on this thread."""
        is_unwanted, self._heard.is_unwanted = getattr(self._heard, "is_unwanted", False), False
        if accepted and self._in_trouble and self._said:
            _logger.info("otel_fastperf: %s reach %s again", self._what, self._where)
        elif not accepted and not self._in_trouble:
            now = time.monotonic()
            self._said = now - self._last_said >= _QUIET
            if self._said:
                self._last_said = now
                _logger.warning(
                    "otel_fastperf: %s do not reach %s%s; %s. %s. This is said once.",
                    self._what,
                    self._where,
                    f", which takes no {self._what}" if is_unwanted else "",
                    self._fate,
                    self._unwanted if is_unwanted else _REMEDIES[Verdict.RETRY],
                )
        self._in_trouble = not accepted


@contextmanager
def exporters_hushed(
    is_own_thread: Callable[[], bool], heard: Callable[[logging.LogRecord], None] | None = None
) -> Iterator[None]:
    """Hold back what the exporters and their libraries log on the sender's threads: `Notices` says it, once.

    Other threads' records pass: a service may use the same libraries. `heard` gets what is held back.
    """
    hush = _Hush(is_own_thread, heard)
    names = tuple(logging.Logger.manager.loggerDict)
    loggers = [logging.getLogger(name) for name in names if name.startswith(_LIBRARIES)]
    for logger in loggers:
        logger.addFilter(hush)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(hush)


_LIBRARIES: Final = ("opentelemetry.exporter", "grpc")


class _Hush(logging.Filter):
    def __init__(self, is_own_thread: Callable[[], bool], heard: Callable[[logging.LogRecord], None] | None) -> None:
        super().__init__()
        self._is_own_thread = is_own_thread
        self._heard = heard

    def filter(self, record: logging.LogRecord) -> bool:
        is_own = self._is_own_thread()
        if is_own and self._heard is not None:
            self._heard(record)
        return not is_own

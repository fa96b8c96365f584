"""A batch of spans, until each of them is delivered, dropped or put back."""

from collections.abc import Callable
from typing import Final

from otel_fastperf.internals.guard import Guard
from otel_fastperf.tracing.buffer import Buffer, Outcome
from otel_fastperf.tracing.log_once import Notices
from otel_fastperf.tracing.otlp_encoder import EncodedSpan
from otel_fastperf.tracing.transport import Answer, Transport, Verdict

#: attempts for one batch. It takes some twenty to find a span that is too large among a thousand; a receiver that
#: refuses every size must not get a request for each span.
_MOST_ATTEMPTS: Final = 100

#: the batch is put back
AGAIN: Final = frozenset({Verdict.RETRY, Verdict.INTERRUPTED})
_OUTCOMES: Final = {
    Verdict.ACCEPTED: Outcome.EXPORTED,
    Verdict.REJECTED: Outcome.REJECTED,
    Verdict.TOO_LARGE: Outcome.TOO_LARGE,
}


class Delivery:
    """The transport of one process, and the fate of what it is given."""

    def __init__(self, buffer: Buffer, connect: Callable[[], Transport], notices: Notices, guard: Guard) -> None:
        self._buffer = buffer
        self._connect = connect
        self._notices = notices
        self._guard = guard
        self._transport: Transport | None = None
        self._overflowed = 0

    def deliver(self, batch: list[EncodedSpan], timeout: Callable[[], float], *, in_trouble: bool) -> Answer:
        """Settle every span of the batch, or put back those from the first that could not be delivered.

        `timeout` says how long the next attempt may take; it is the last when there is no time left.
        """
        parts = [batch]
        attempts = 0
        while True:
            part = parts.pop()
            seconds = timeout()
            # the first attempt is made even when there is no time
            answer = Answer(Verdict.INTERRUPTED) if attempts and seconds <= 0 else self._attempt(part, seconds)
            attempts += 1
            if answer.verdict in AGAIN:
                self._buffer.put_back([*part, *(span for rest in reversed(parts) for span in rest)])
                return answer
            if answer.verdict is Verdict.TOO_LARGE and len(part) > 1 and attempts < _MOST_ATTEMPTS:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            self._settle(part, answer, in_trouble=in_trouble)
            if not parts:
                return answer

    def prepare_fork(self, *, idle: bool) -> None:
        """End the call under way, or free the connection."""
        if self._transport is not None:
            try:
                self._transport.prepare_fork(idle=idle)
            except Exception as error:  # noqa: BLE001 - the fork goes on
                self._guard.failed("exporter", error)

    def hang_up(self) -> None:
        """From any thread: close the transport; a call under way ends early."""
        transport, self._transport = self._transport, None
        if transport is not None:
            try:
                transport.close()
            except Exception as error:  # noqa: BLE001 - it is gone either way
                self._guard.failed("exporter", error)

    def _attempt(self, spans: list[EncodedSpan], seconds: float) -> Answer:
        try:
            transport = self._transport
            if transport is None:
                transport = self._transport = self._connect()
            return transport.send(spans, max(seconds, 0.05))
        except Exception as error:  # noqa: BLE001 - a certificate that cannot be read, or a fault of ours
            self._guard.failed("exporter", error)
            return Answer(Verdict.RETRY, type(error).__name__)

    def _settle(self, spans: list[EncodedSpan], answer: Answer, *, in_trouble: bool) -> None:
        refused = min(answer.refused, len(spans))
        self._buffer.settle(refused, Outcome.REJECTED)
        self._buffer.settle(len(spans) - refused, _OUTCOMES[answer.verdict])
        overflowed, self._overflowed = self._overflowed, self._buffer.overflowed
        lost = self._buffer.lost
        if answer.verdict is Verdict.TOO_LARGE:
            self._notices.too_large(max(len(span.data) for span in spans), answer.reason)
        elif answer.verdict is Verdict.REJECTED or refused:
            self._notices.trouble(Answer(Verdict.REJECTED, answer.reason), lost)
        elif not in_trouble and self._overflowed > overflowed:
            self._notices.trouble(Answer(Verdict.ACCEPTED, "it takes them too slowly"), lost)
        else:
            self._notices.well(lost)

"""OTLP over HTTP, protobuf bodies: the official exporter on a requests session that observes each call.

The session is a documented argument of the exporter, from 1.38 to 1.45 and on. Which answers call for a retry:
https://opentelemetry.io/docs/specs/otlp/#failures-1
"""

import re
import time
from collections.abc import Sequence
from typing import Any, Final

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan
from requests import exceptions

from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.transport import Answer, AttemptEnded, Verdict

_RETRYABLE: Final = frozenset({429, 502, 503, 504})


class OtlpHttp:
    """One exporter with a connection pool of its own."""

    def __init__(self, settings: TracesSettings) -> None:
        self._session = _ObservedSession()
        self._closed = False
        self._exporter = OTLPSpanExporter(
            endpoint=settings.url,
            headers=settings.headers or None,
            timeout=settings.timeout,
            compression=Compression(settings.compression),
            session=self._session,
        )

    def send(self, spans: Sequence[ReadableSpan], timeout: float) -> Answer:
        """Encode and POST once."""
        session = self._session
        session.timeout = timeout
        reason = ""
        try:
            self._exporter.export(spans)
        except AttemptEnded:
            pass
        except Exception as error:  # noqa: BLE001 - some versions log an encoding error, others let it out
            reason = type(error).__name__
        answer = session.take_answer()
        if answer is None:
            # no answer, no call: closed by another thread, or nothing that could be sent
            return Answer(Verdict.INTERRUPTED if self._closed else Verdict.UNENCODABLE, reason)
        if answer.verdict is Verdict.RETRY:
            # the next attempt begins with a new connection; the session can be used on
            session.close()
        return answer

    def prepare_fork(self, *, idle: bool) -> None:
        """Close kept connections: parent and child must not both write to one. A call under way cannot be ended."""
        if idle:
            self._session.close()

    def close(self) -> None:
        """Close idle connections; one that waits for an answer stays until its timeout."""
        self._closed = True
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _ObservedSession(requests.Session):
    """Makes the call with our time limit, keeps the answer, and raises what is no success through the exporter."""

    def __init__(self) -> None:
        super().__init__()
        self.timeout = 0.0
        self._answer: Answer | None = None

    def take_answer(self) -> Answer | None:
        """What came of the last call; None if there was none."""
        answer, self._answer = self._answer, None
        return answer

    def request(self, *args: Any, **options: Any) -> requests.Response:
        options["allow_redirects"] = False
        try:
            response = self._call(*args, **options)
        except Exception as error:  # noqa: BLE001 - told in the answer
            self._answer = _failed(error, self.timeout)
            raise AttemptEnded from None
        self._answer = _judged(response)
        if self._answer.verdict is not Verdict.ACCEPTED:
            raise AttemptEnded
        return response

    def _call(self, *args: Any, **options: Any) -> requests.Response:
        deadline = time.monotonic() + self.timeout
        options["timeout"] = self.timeout
        try:
            return super().request(*args, **options)
        except exceptions.Timeout:
            raise
        except exceptions.ConnectionError:
            # most often a kept connection that the receiver has closed meanwhile: a new one is not
            options["timeout"] = deadline - time.monotonic()
            if options["timeout"] <= 0:
                raise
            return super().request(*args, **options)


def _judged(response: requests.Response) -> Answer:
    status = response.status_code
    if 200 <= status < 300:  # noqa: PLR2004 - the exporter takes a redirect for success; the spans would be lost silently
        refused, reason = _partial_success(response.content)
        return Answer(Verdict.ACCEPTED, reason, refused=refused)
    reason = f"HTTP {status} {response.reason}"
    if status in _RETRYABLE:
        return Answer(Verdict.RETRY, reason, _seconds(response.headers.get("retry-after", "")))
    return Answer(Verdict.REJECTED, reason)


def _partial_success(body: bytes) -> tuple[int, str]:
    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except Exception:  # noqa: BLE001 - whoever answers 200 with something else has taken them all
        return 0, ""
    return partial.rejected_spans, partial.error_message[:200]


def _seconds(retry_after: str) -> float | None:
    """Only the form in seconds: the one with a date depends on two clocks."""
    return float(retry_after) if retry_after.strip().isdecimal() else None


def _failed(error: Exception, timeout: float) -> Answer:
    # str(error) may hold the address with its query, or a header's value
    if isinstance(error, exceptions.Timeout):
        return Answer(Verdict.RETRY, f"no answer within {timeout:.1f} s")
    # requests' own errors about what it was given (URL, header) are ValueErrors: they will be the same next time
    verdict = Verdict.REJECTED if isinstance(error, ValueError) else Verdict.RETRY
    known = re.search(r"\[(?:Errno -?\d+|SSL: \w+)\] ([\w :]+)", str(error))
    return Answer(verdict, known[1].strip() if known else type(error).__name__)

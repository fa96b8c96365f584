"""OTLP over HTTP, protobuf bodies, on a connection that is kept.

Which answers call for a retry: https://opentelemetry.io/docs/specs/otlp/#failures-1
"""

import gzip
import re
import zlib
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPResponse
from typing import Final
from urllib.parse import quote, urlsplit

from opentelemetry.exporter.otlp.proto.http import Compression

from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.connection import MOST_READ, AnswerTooLongError, CollectorConnection, Deadline
from otel_fastperf.tracing.otlp_encoder import EncodedSpan, export_request
from otel_fastperf.tracing.proxy import ProxyError, basic_authorization
from otel_fastperf.tracing.transport import Answer, Verdict, printable, user_agent

_RETRYABLE: Final = frozenset({429, 502, 503, 504})
_TOO_LARGE: Final = 413
#: level 1: higher ones take up to four times the time, for a tenth of the bytes
_COMPRESS: Final[dict[Compression, Callable[[bytes], bytes]]] = {
    Compression.NoCompression: bytes,
    Compression.Gzip: lambda body: gzip.compress(body, 1, mtime=0),
    Compression.Deflate: lambda body: zlib.compress(body, 1),
}
#: an ExportTraceServiceResponse that has nothing to say: empty, or, from the collector, with an empty message inside
_NOTHING_REFUSED: Final = frozenset({b"", b"\n\0"})


class OtlpHttp:
    """One connection, made when it is needed."""

    def __init__(self, settings: TracesSettings) -> None:
        self._url = urlsplit(settings.url)
        self._compression = Compression(settings.compression)
        self._headers = self._all_headers(settings.headers)
        self._connection: CollectorConnection | None = None
        self._busy = False
        self._interrupted = False
        self._closed = False

    def send(self, spans: Sequence[EncodedSpan], timeout: float) -> Answer:
        """POST once."""
        self._busy, self._interrupted = True, self._closed
        try:
            if not self._closed:
                return self._judged(self._exchange(_COMPRESS[self._compression](export_request(spans)), timeout))
        except Exception as error:  # noqa: BLE001 - told in the answer
            self._hang_up()
            if not self._interrupted:
                return _failed(error, timeout)
        finally:
            self._busy = False
            if self._closed:
                self._hang_up()
        return Answer(Verdict.INTERRUPTED)

    def prepare_fork(self, *, idle: bool) -> None:
        """Parent and child must not both write to a connection."""
        if idle:
            self._hang_up()
        else:
            self._interrupt()

    def close(self) -> None:
        """Close the connection; a call under way ends at once, unless it waits for the answer of a name server."""
        self._closed = True
        if self._busy:
            self._interrupt()
        else:
            self._hang_up()

    def _exchange(self, body: bytes, timeout: float) -> HTTPResponse:
        deadline = Deadline(timeout)
        if self._connection is not None:
            try:
                return self._ask(self._connection, body, deadline)
            except TimeoutError:
                raise
            except OSError:
                # most often the receiver has closed a kept connection meanwhile: a new one is not
                self._hang_up()
                if self._interrupted:
                    raise
        if self._interrupted:
            raise InterruptedError
        self._connection = CollectorConnection(self._url)
        return self._ask(self._connection, body, deadline)

    def _ask(self, connection: CollectorConnection, body: bytes, deadline: Deadline) -> HTTPResponse:
        connection.begin(deadline)
        target = quote(self._url.path or "/", safe="!#$%&'()*+,/:;=?@[]~")
        target += "?" + quote(self._url.query, safe="!#$%&'()*+,/:;=?@[]~") if self._url.query else ""
        headers = self._headers
        if connection.proxy is not None and self._url.scheme == "http":
            target = f"http://{self._url.netloc.rpartition('@')[2]}{target}"
            credentials = basic_authorization(connection.proxy)
            headers = headers | ({"Proxy-Authorization": credentials} if credentials else {})
        try:
            connection.request("POST", target, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            # a receiver may refuse a request, for its size, before it has read it; if there is no answer, reading fails
            if connection.sock is None:
                raise
        return connection.getresponse()

    def _judged(self, response: HTTPResponse) -> Answer:
        status = response.status
        body = self._body(response)
        reason = f"HTTP {status} {printable(response.reason)}"
        if 200 <= status < 300:  # noqa: PLR2004 - a redirect is no success: the spans would be lost silently
            refused, reason = _partial_success(body)
            return Answer(Verdict.ACCEPTED, reason, refused=refused)
        if status in _RETRYABLE:
            # the next attempt begins with a new connection, perhaps to another instance
            self._hang_up()
            return Answer(Verdict.RETRY, reason, _seconds(response.headers.get("retry-after", "")))
        return Answer(Verdict.TOO_LARGE if status == _TOO_LARGE else Verdict.REJECTED, reason)

    def _body(self, response: HTTPResponse) -> bytes:
        """What can be had of it: the status alone has decided already."""
        try:
            body = response.read(MOST_READ)
        except (OSError, HTTPException):
            body = b""
        if not response.isclosed():
            response.close()
            self._hang_up()
        return body

    def _all_headers(self, given: dict[str, str]) -> dict[str, str]:
        headers = {"content-type": "application/x-protobuf", "user-agent": user_agent()}
        if self._compression is not Compression.NoCompression:
            headers["content-encoding"] = self._compression.value
        headers |= {name.lower(): value for name, value in given.items()}
        credentials = basic_authorization(self._url)
        return headers | ({"authorization": credentials} if credentials else {})

    def _interrupt(self) -> None:
        self._interrupted = True
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _partial_success(body: bytes) -> tuple[int, str]:
    if body in _NOTHING_REFUSED:
        return 0, ""
    # Google's protobuf is loaded when there is something to read, which is hardly ever
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except Exception:  # noqa: BLE001 - whoever answers 200 with something else has taken them all
        return 0, ""
    return partial.rejected_spans, printable(partial.error_message)


def _seconds(retry_after: str) -> float | None:
    """Only the form in seconds: the one with a date depends on two clocks."""
    return float(retry_after) if retry_after.strip().isdecimal() else None


def _failed(error: Exception, timeout: float) -> Answer:
    # str(error) may hold the address with its query, or a header's value
    if isinstance(error, TimeoutError):
        return Answer(Verdict.RETRY, f"no answer within {timeout:.1f} s")
    if isinstance(error, AnswerTooLongError):
        return Answer(Verdict.RETRY, f"an answer of more than {MOST_READ >> 10} KiB")
    if isinstance(error, ProxyError):
        return Answer(Verdict.RETRY, str(error))
    # http.client's errors about what it was given, a header for example: they will be the same next time. A certificate
    # that is not trusted is a ValueError too.
    verdict = Verdict.REJECTED if isinstance(error, ValueError) and not isinstance(error, OSError) else Verdict.RETRY
    known = re.search(r"\[(?:Errno -?\d+|SSL: \w+)\] ([\w :-]+)", str(error))
    return Answer(verdict, known[1].strip() if known else type(error).__name__)

"""`GET /demo/spans`: the finished spans of the service, for clients on this machine only.

A real service exports its spans (`OTEL_EXPORTER_OTLP_ENDPOINT`). Without an endpoint they stay in the process, and this
route serves them.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.semconv.attributes.db_attributes import DB_QUERY_SUMMARY
from opentelemetry.trace import SpanKind, StatusCode

PATH: Final = "/demo/spans"
_LOOPBACK: Final = {"127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """The parts of a span that the summary needs.

    Ids are hexadecimal; times are nanoseconds since 1970; `error` and `parent_id` are `""` if there is none.
    `statement` tells an SQL statement from a COMMIT and from a call of another service.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    error: str = ""
    statement: bool = False

    @property
    def seconds(self) -> float:
        """Duration."""
        return (self.end - self.start) / 1e9


def records(spans: Iterable[ReadableSpan]) -> list[dict[str, Any]]:
    """Convert spans for JSON."""
    return [asdict(_record(span)) for span in spans]


def _record(span: ReadableSpan) -> SpanRecord:
    error, attributes = "", span.attributes or {}
    if span.status.status_code is StatusCode.ERROR:
        error = str(attributes.get("error.type", "error"))
    return SpanRecord(
        trace_id=f"{span.context.trace_id:032x}",
        span_id=f"{span.context.span_id:016x}",
        parent_id=f"{span.parent.span_id:016x}" if span.parent else "",
        name=span.name,
        kind=span.kind.name,
        start=span.start_time or 0,
        end=span.end_time or 0,
        error=error,
        statement=span.kind is SpanKind.CLIENT and DB_QUERY_SUMMARY in attributes,
    )


def add_spans_route(app: FastAPI, spans: Callable[[], Iterable[ReadableSpan]]) -> None:
    """Serve the spans that `spans()` returns under `PATH`, to clients on this machine."""

    def serve_spans(request: Request) -> JSONResponse:
        if request.client is None or request.client.host not in _LOOPBACK:
            raise HTTPException(404)
        return JSONResponse(records(spans()))

    app.add_api_route(PATH, serve_spans, include_in_schema=False)

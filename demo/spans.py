"""Finished spans on their way from the service to the report: `GET /demo/spans`, for this machine only.

A service of yours would export them (`OTEL_EXPORTER_OTLP_ENDPOINT`); without an endpoint they stay in the process, and
this route hands them out.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

PATH: Final = "/demo/spans"
_LOOPBACK: Final = {"127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """What the report needs of a span.

    Ids are hexadecimal, times are nanoseconds since 1970, `error` and `parent_id` are `""` without one.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    error: str = ""

    @property
    def seconds(self) -> float:
        """From start to end."""
        return (self.end - self.start) / 1e9


def records(spans: Iterable[ReadableSpan]) -> list[dict[str, Any]]:
    """Spans as JSON has them."""
    return [asdict(_record(span)) for span in spans]


def _record(span: ReadableSpan) -> SpanRecord:
    error = ""
    if span.status.status_code is StatusCode.ERROR:
        error = str((span.attributes or {}).get("error.type", "error"))
    return SpanRecord(
        trace_id=f"{span.context.trace_id:032x}",
        span_id=f"{span.context.span_id:016x}",
        parent_id=f"{span.parent.span_id:016x}" if span.parent else "",
        name=span.name,
        kind=span.kind.name,
        start=span.start_time or 0,
        end=span.end_time or 0,
        error=error,
    )


def add_spans_route(app: FastAPI, spans: Callable[[], Iterable[ReadableSpan]]) -> None:
    """Have the app answer `PATH` with what `spans()` returns, to callers on this machine."""

    def hand_out(request: Request) -> JSONResponse:
        if request.client is None or request.client.host not in _LOOPBACK:
            raise HTTPException(404)
        return JSONResponse(records(spans()))

    app.add_api_route(PATH, hand_out, include_in_schema=False)

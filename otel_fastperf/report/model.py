"""The doctor's report, as values: what is known of a worker, its routes and their bottlenecks; and as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from otel_fastperf.errors import ReportError
from otel_fastperf.findings import Finding
from otel_fastperf.internals.text_safety import escape_surrogates

#: of the JSON; raised when a field gets another name or meaning, not when one is added
SCHEMA: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteVerdict:
    """Where the time of one route's requests went. Seconds; quantiles are None where nothing is known."""

    method: str
    #: the template, or `unmatched`
    route: str
    requests: int
    #: those with a 5xx, an exception, or a response that was cut short
    errors: int
    #: of all requests together
    seconds: float
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    #: mean number of SQL statements of a request
    statements: float = 0.0
    #: seconds by `budget.Segment`, largest first; of the route, all its methods together, whose seconds they add up to
    segments: Mapping[str, float] = field(default_factory=dict)
    #: what to look at first
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerVerdict:
    """How the process is. Everything that is not known is None."""

    pid: int
    uptime_seconds: float
    requests_per_second: float
    loop_utilization: float | None = None
    loop_lag_p50: float | None = None
    loop_lag_p99: float | None = None
    #: seconds for which code blocked the event loop, by cause
    blocked_seconds: Mapping[str, float] = field(default_factory=dict)
    threads_limit: int | None = None
    threads_borrowed: int | None = None
    threads_waiting: int | None = None
    resident_bytes: int | None = None
    unique_bytes: int | None = None
    headroom_bytes: int | None = None
    #: share of the uptime in which the garbage collector stopped the process
    gc_share: float | None = None
    statements_per_second: float = 0.0
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `telemetry.diagnose()` gives and `otel-fastperf doctor` shows."""

    #: `service.name`, or ""
    service: str
    #: of otel-fastperf, Python, FastAPI, SQLAlchemy, the OpenTelemetry SDK: name -> version
    versions: Mapping[str, str]
    #: Unix seconds
    made_at: float
    worker: WorkerVerdict
    #: by seconds, most first
    routes: tuple[RouteVerdict, ...]
    #: worst first
    findings: tuple[Finding, ...]
    #: what telemetry lost or failed at: outcome or part -> count; empty when all is well
    troubles: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """One JSON object, in ASCII: the fields as they are called here, and `"schema": 1`."""
        return json.dumps({"schema": SCHEMA, **_plain(asdict(self))}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The report that `to_json` wrote. Fields that are not known here are left out.

        Raises:
            ReportError: The text is no report; the message says why and names the remedy.
        """
        try:
            return _read(text)
        except (ValueError, RecursionError) as error:
            message = (
                f"This is not a report of otel_fastperf of schema {SCHEMA}: {_why(error)}."
                " Remedy: pass the output of telemetry.diagnose().to_json(), written and read by the same version."
            )
            raise ReportError(message) from None


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def _read(text: str) -> Report:
    fields = json.loads(text)
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if schema != SCHEMA:
        why = "it has no schema" if schema is None else f"its schema is {schema!r:.40}"
        raise ValueError(why)
    return _adapter().validate_python(fields)


def _why(error: Exception) -> str:
    match error:
        case ValidationError():
            first = error.errors(include_url=False, include_input=False)[0]
            return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        case json.JSONDecodeError() | RecursionError():
            return f"it is not JSON ({error})"
        case _:
            return str(error)


def _plain(value: Any) -> Any:
    """What JSON can say. It has no infinity: that is written as text, and read as a number where one is due."""
    match value:
        case str():
            return escape_surrogates(value)
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {_plain(str(key)): _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case _:
            return value

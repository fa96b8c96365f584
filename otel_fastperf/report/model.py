"""The doctor's report: what is known about a worker, its routes and their bottlenecks. Can be written as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from otel_fastperf.errors import ReportError
from otel_fastperf.findings import CallSite, Finding
from otel_fastperf.internals.text_safety import escape_surrogates

#: version of the JSON; increased when a field changes its name or meaning, not when one is added
SCHEMA: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitedLine:
    """What slow requests of a route awaited, or computed in a thread, and at which line; estimated from samples.

    Attributes:
        text: `awaiting httpx AsyncClient.get at shop/prices.py:14 in price`.
        seconds: Total time.
        share: Share of the time of all requests of the route, 0 to 1.
        library: The package that the application calls; `""` for the application's own code.
        function: Its function; `""` if unknown.
        computing: True if a thread computes, False if the request waits.
        call_site: The line of the application; None if no code of it was seen.
    """

    text: str
    seconds: float
    share: float
    library: str = ""
    function: str = ""
    computing: bool = False
    call_site: CallSite | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteVerdict:
    """Where the time of one route's requests went.

    Attributes:
        method: HTTP method, `_OTHER` for an unknown one.
        route: Route template, or `unmatched`.
        requests: Number of requests.
        errors: Number of requests with a 5xx status, an exception, or a truncated response; a client that
            went away does not count.
        seconds: Total duration of the requests.
        p50: Median duration in seconds; None if unknown.
        p95: The same for 95 %.
        p99: The same for 99 %.
        latency_bounds: The lowest and the highest bound of the buckets of its durations, in seconds; beyond them, a
            quantile is not known more exactly.
        statements: Mean number of SQL statements per request.
        segments: Seconds by segment of the time budget, largest first. They add up to `seconds`.
        awaited: What its slow requests awaited and at which line, most time first; empty if none was slow.
        slow: Whether p95 reaches `findings.slow_route`.
        unexplained: It is slow, and no finding is the reason.
        sentence: What to look at first.
    """

    method: str
    route: str
    requests: int
    errors: int
    seconds: float
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    latency_bounds: tuple[float, float] = (0.005, 10.0)
    statements: float = 0.0
    segments: Mapping[str, float] = field(default_factory=dict)
    awaited: tuple[AwaitedLine, ...] = ()
    slow: bool = False
    unexplained: bool = False
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerVerdict:
    """The state of the process. Unknown values are None.

    Attributes:
        pid: Process id.
        uptime_seconds: Time since telemetry was set up.
        requests_per_second: Mean over the uptime.
        loop_utilization: Share of the last second in which the event loop was busy, 0 to 1.
        loop_lag_p50: Median lag of the event loop's timers, in seconds.
        loop_lag_p99: 99 % of the timers were at most this late, in seconds.
        blocked_seconds: Seconds for which code blocked the event loop, by cause.
        threads_limit: Maximum number of threads for `def` endpoints.
        threads_borrowed: Number of threads in use.
        threads_waiting: Number of tasks waiting for a thread.
        resident_bytes: Resident memory (RSS), of the same reading as `unique_bytes` if there is one.
        unique_bytes: Memory unique to this process (USS).
        headroom_bytes: Memory left until the container's limit.
        gc_share: Share of the uptime in which the garbage collector stopped the process, 0 to 1.
        statements_per_second: Mean number of SQL statements per second over the uptime.
        sentence: What to look at first.
        number: The smallest one that was free when it started: the label `worker` of metrics. 0 if it has no siblings.
        silent_seconds: Seconds since it has told its figures, if it does not answer now; None if it does.
    """

    pid: int
    uptime_seconds: float
    requests_per_second: float
    loop_utilization: float | None = None
    loop_lag_p50: float | None = None
    loop_lag_p99: float | None = None
    blocked_seconds: Mapping[str, float] = field(default_factory=dict)
    threads_limit: int | None = None
    threads_borrowed: int | None = None
    threads_waiting: int | None = None
    resident_bytes: int | None = None
    unique_bytes: int | None = None
    headroom_bytes: int | None = None
    gc_share: float | None = None
    statements_per_second: float = 0.0
    sentence: str = ""
    number: int = 0
    silent_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The report that `telemetry.diagnose()` returns and `otel-fastperf doctor` shows.

    Attributes:
        service: `service.name`, or "".
        versions: Versions by name, of otel-fastperf, Python, FastAPI, SQLAlchemy and the OpenTelemetry SDK.
        made_at: Time of the report, in Unix seconds.
        worker: State of the process; of several workers, that of all of them together.
        routes: The routes, those with the most seconds first.
        findings: The findings, first those whose remedies save most time over all requests, then by severity.
        consequences: Findings that follow from one of these, by the fingerprint of their cause.
        advice: What to fix first, and what that would give back; "" if nothing is worth it.
        savings: Seconds that the remedy of a finding would have saved over all requests, by fingerprint.
        uninstrumented: Client libraries that the application uses without their OpenTelemetry instrumentation, and what
            pip has to install; their calls have no spans.
        troubles: Number of losses and failures of telemetry, by outcome or part; empty if there are none.
        workers: State of each worker process; empty if the service has only one process.
    """

    service: str
    versions: Mapping[str, str]
    made_at: float
    worker: WorkerVerdict
    routes: tuple[RouteVerdict, ...]
    findings: tuple[Finding, ...]
    consequences: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    advice: str = ""
    savings: Mapping[str, float] = field(default_factory=dict)
    uninstrumented: Mapping[str, str] = field(default_factory=dict)
    troubles: Mapping[str, float] = field(default_factory=dict)
    workers: tuple[WorkerVerdict, ...] = ()

    def to_json(self) -> str:
        """Write one JSON object, in ASCII: the fields by their names here, and `"schema": 1`."""
        return json.dumps({"schema": SCHEMA, **plain(asdict(self))}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read a report that `to_json` wrote. Unknown fields are ignored.

        Raises:
            ReportError: The text is not a report; the message gives the reason and the remedy.
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


def plain(value: Any) -> Any:
    """Convert a value for JSON. Infinity, which JSON lacks, is written as text, and read as a number again."""
    match value:
        case str():
            return escape_surrogates(value)
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {plain(str(key)): plain(part) for key, part in value.items()}
        case list() | tuple():
            return [plain(part) for part in value]
        case _:
            return value

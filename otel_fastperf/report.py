"""The doctor's report, as values: what is known of a worker, its routes and their bottlenecks; and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from otel_fastperf.findings import Finding


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
    #: seconds by `budget.Segment`, largest first; they add up to the route's seconds. Of the route, all methods together
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
    #: seconds for which code held the event loop, by cause
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

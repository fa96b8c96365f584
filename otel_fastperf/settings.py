"""Settings: OpenTelemetry's own variables first, ours as `OTEL_FASTPERF_<GROUP>_<NAME>`, arguments over both.

    Settings(metrics={"path": "/internal/metrics"})        argument
    OTEL_FASTPERF_METRICS_PATH=/internal/metrics           the same, from the environment
    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318      OpenTelemetry's variable, here `traces.base_endpoint`

Each part of the package receives only its own group. Wrong values raise one `SettingsError` that lists them all.
"""

import difflib
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from otel_fastperf.errors import SettingsError
from otel_fastperf.findings import Kind
from otel_fastperf.internals.redaction import ErrorDetail
from otel_fastperf.internals.urls import without_userinfo

PREFIX: Final = "OTEL_FASTPERF_"

#: default path of the debug route
DEBUG_PATH: Final = "/debug/fastperf"

#: the process's environment
_ENVIRONMENT: Final[Mapping[str, str]] = os.environ

#: OpenTelemetry's variables and the settings they set. The later of two variables for one setting wins.
STANDARD: Final[tuple[tuple[str, str], ...]] = (
    ("OTEL_SDK_DISABLED", "sdk_disabled"),
    ("OTEL_SERVICE_NAME", "service_name"),
    ("OTEL_RESOURCE_ATTRIBUTES", "resource_attributes"),
    ("OTEL_PROPAGATORS", "propagators"),
    ("OTEL_TRACES_SAMPLER", "traces.sampler"),
    ("OTEL_TRACES_SAMPLER_ARG", "traces.sampler_arg"),
    ("OTEL_TRACES_EXPORTER", "traces.exporter"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "traces.base_endpoint"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "traces.endpoint"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "traces.protocol"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "traces.protocol"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "traces.headers"),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "traces.headers"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "traces.timeout"),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "traces.timeout"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "traces.compression"),
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "traces.compression"),
    ("OTEL_METRICS_EXPORTER", "metrics.exporter"),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "metrics.endpoint"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "metrics.protocol"),
    ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "metrics.protocol"),
    ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "metrics.temporality"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "metrics.export_interval_ms"),
    ("OTEL_LOGS_EXPORTER", "logs.exporter"),
    ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "logs.endpoint"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "logs.protocol"),
    ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "logs.protocol"),
    ("OTEL_BLRP_MAX_QUEUE_SIZE", "logs.queue_size"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "traces.queue_size"),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "traces.batch_size"),
    ("OTEL_BSP_SCHEDULE_DELAY", "traces.delay_ms"),
    ("OTEL_PYTHON_EXCLUDED_URLS", "requests.excluded_urls"),
    ("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "requests.excluded_urls"),
    ("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "clients.disabled"),
    ("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "requests.known_methods"),
    ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", "requests.capture_request_headers"),
    ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE", "requests.capture_response_headers"),
    ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS", "requests.sanitize_headers"),
)

#: variables whose values are names in any case
_IN_LOWER_CASE: Final = frozenset(
    {
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        "OTEL_LOGS_EXPORTER",
        "OTEL_METRICS_EXPORTER",
        "OTEL_TRACES_EXPORTER",
    }
)

#: methods known to https://opentelemetry.io/docs/specs/semconv/http/http-spans/ : RFC 9110, PATCH and QUERY
HTTP_METHODS: Final = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")

#: `/orders/{id}`, `GET /orders/{id}`
_ROUTE: Final = re.compile(r"(?:[A-Z]+ )?/(?:[^\s?#{}]|\{\w+(?::\w+)?\})*")

#: most bounds of a histogram; each is a series for each combination of labels
_MOST_BUCKETS: Final = 100

#: what an HTTP header may be: https://www.rfc-editor.org/rfc/rfc9110#name-fields
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[ -~\xa0-\xff]*")

_SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)


def _names(value: object) -> object:
    """`"a, b"` -> `("a", "b")`; any other value unchanged."""
    if isinstance(value, str):
        return tuple(part for part in (part.strip() for part in value.split(",")) if part)
    return value


def _pairs(value: object) -> object:
    """`"k=v,k2=v%202"` -> a dict: W3C baggage, as OpenTelemetry's header variables use it."""
    if not isinstance(value, str):
        return value
    pairs = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        key, equals, text = part.partition("=")
        if not equals or not key.strip():
            # without the offending pair: headers are secrets
            message = "must be key=value pairs separated by commas"
            raise ValueError(message)
        pairs[key.strip()] = unquote(text.strip())
    return pairs


def _bounds_by_name(value: object) -> object:
    """`"a=1 2,b=3"` -> `{"a": ("1", "2"), "b": ("3",)}`; any other value unchanged."""
    pairs = _pairs(value)
    if not isinstance(value, str) or not isinstance(pairs, dict):
        return value
    return {name: tuple(text.split()) for name, text in pairs.items()}


def _histogram_buckets(value: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    if not value:
        return value
    # prometheus_client is not needed by those who leave the buckets alone
    from otel_fastperf.metrics import CATALOGUE

    known = [metric.name for metric in CATALOGUE if metric.kind == "histogram"]
    for name, bounds in value.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            message = f"{name!r} is no histogram of docs/metrics.md{f', {near[0]} is' if near else ''}"
            raise ValueError(message)
        pairs = itertools.pairwise(bounds)
        if (
            not bounds
            or not all(map(math.isfinite, bounds))
            or bounds[0] < 0
            or any(one >= next_ for one, next_ in pairs)
        ):
            message = f"the bounds of {name} must be numbers from 0 on, each greater than the one before"
            raise ValueError(message)
        if len(bounds) > _MOST_BUCKETS:
            message = f"{name} has {len(bounds)} bounds, and may have {_MOST_BUCKETS}: each is a series per label set"
            raise ValueError(message)
    return value


def _ratios_of_routes(value: dict[str, float]) -> dict[str, float]:
    # Starlette is not needed by those who sample all routes alike
    from starlette.routing import compile_path

    for route, ratio in value.items():
        if not _ROUTE.fullmatch(route):
            message = (
                f"{route!r} must be a path template that starts with /, such as /orders/{{id}}, alone or after a method"
                " in capitals"
            )
            raise ValueError(message)
        try:
            compile_path(route.rpartition(" ")[2])
        except (AssertionError, ValueError) as error:
            message = f"{route!r} is not a path template ({error})"
            raise ValueError(message) from None
        if not 0.0 <= ratio <= 1.0:
            message = f"the ratio of {route!r} must be a number from 0 to 1"
            raise ValueError(message)
    return value


def _regular_expressions(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            message = f"{pattern!r} is not a regular expression ({error})"
            raise ValueError(message) from None
    try:
        # all patterns are searched for at once
        re.compile("|".join(patterns))
    except re.error as error:
        message = f"the patterns do not form one regular expression ({error}); write (?i:pattern) for (?i)pattern"
        raise ValueError(message) from None
    return patterns


def _receiver_url(value: str) -> str:
    if value:
        try:
            url = urlsplit(value)
            good = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port is None or url.port > 0)
        except ValueError:
            good = False
        if not good:
            message = "must be a URL with http:// or https:// and a host"
            raise ValueError(message)
    return value


#: names separated by commas, and the URL of an OTLP receiver
_Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_names)]
_ReceiverUrl: TypeAlias = Annotated[str, AfterValidator(_receiver_url)]
#: fractions of traces by route
_RouteRatios: TypeAlias = Annotated[dict[str, float], BeforeValidator(_pairs), AfterValidator(_ratios_of_routes)]
#: what makes a request notable
_Reasons: TypeAlias = Annotated[tuple[Literal["error", "finding", "slow"], ...], BeforeValidator(_names)]
#: bounds of histograms by their names
_Buckets: TypeAlias = Annotated[
    dict[str, tuple[float, ...]], BeforeValidator(_bounds_by_name), AfterValidator(_histogram_buckets)
]


#: what the comments on statements show
SqlComments: TypeAlias = Literal["off", "route", "traceparent", "traceparent_everywhere"]


def signal_url(endpoint: str, base: str, protocol: str, signal: str) -> str:
    """The URL for `signal`: its own `endpoint`, unchanged, else the base, with the signal's path over HTTP.

    https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp
    """
    if endpoint:
        return endpoint
    if protocol == "grpc":
        return base or "http://localhost:4317"
    return f"{(base or 'http://localhost:4318').rstrip('/')}/v1/{signal}"


def _page_path(value: str) -> str:
    if not value.startswith("/") or value == "/" or re.search(r"[\s?#{}]", value):
        message = "must be a path that starts with / and contains no spaces, braces, ? or #"
        raise ValueError(message)
    return value


class _Group(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class TracesSettings(_Group):
    """Sampling, storage and export of spans."""

    sampler: str = Field(
        default="parentbased_always_on",
        examples=["parentbased_traceidratio"],
        description="Sampler, which selects the requests whose spans are recorded.",
    )
    sampler_arg: str = Field(
        default="",
        examples=["0.1"],
        description="Argument of the sampler. For the `traceidratio` samplers: fraction of traces to keep, 0 to 1.",
    )
    route_ratios: _RouteRatios = Field(
        default={},
        examples=["/health=0.01,POST /pay=1,/orders/{id}=0.5"],
        description="Fraction of traces to keep by route, in place of the sampler's: `template=ratio` or"
        " `METHOD template=ratio` pairs separated by commas. The first template that fits the path counts. A caller's"
        " decision stands. All requests are measured.",
    )
    keep: _Reasons = Field(
        default=(),
        examples=["error,finding,slow"],
        description="What is exported although the sampler drops it: requests that fail (`error`), that show a"
        " bottleneck (`finding`) or that take long (`slow`), with the spans inside of them. See docs/sampling.md for"
        " what these traces lack, and the cost.",
    )
    keep_slow: float = Field(
        default=1.0, gt=0, description="Minimum duration of a request that `keep` calls `slow`, in seconds."
    )
    exporter: Literal["", "otlp", "console", "none"] = Field(
        default="",
        examples=["otlp"],
        description="Where spans go. Empty means `otlp` if an endpoint is set, else `none`.",
    )
    base_endpoint: _ReceiverUrl = Field(
        default="",
        examples=["http://localhost:4318"],
        description="URL of the OTLP receiver for all signals. Over HTTP, `/v1/traces` is appended.",
    )
    endpoint: _ReceiverUrl = Field(
        default="",
        examples=["http://localhost:4318/v1/traces"],
        description="URL of the OTLP receiver for spans, used unchanged. Takes precedence over `base_endpoint`.",
    )
    protocol: Literal["http/protobuf", "grpc"] = Field(default="http/protobuf", description="OTLP transport.")
    headers: dict[str, str] = Field(
        default={},
        examples=["api-key=abc"],
        description="Headers (gRPC: metadata) sent with each export, as `key=value` pairs separated by commas.",
    )
    timeout: float = Field(default=10.0, gt=0, description="Timeout of one export, in seconds.")
    compression: Literal["none", "gzip", "deflate"] = Field(
        default="gzip", description="Compression of exported batches."
    )
    queue_bytes: int = Field(
        default=2**26,
        gt=0,
        description="Memory for spans waiting for export, in bytes. When full, the oldest are dropped and counted.",
    )
    queue_size: int | None = Field(
        default=None,
        gt=0,
        examples=["8192"],
        description="Maximum number of spans waiting for export. Empty means that only `queue_bytes` limits them.",
    )
    batch_size: int = Field(
        default=1024, gt=0, description="Maximum number of spans per export, which has 1 MiB at most."
    )
    delay_ms: float = Field(
        default=1000.0, gt=0, description="Maximum time a span waits for its batch to fill, in milliseconds."
    )
    exit_timeout: float = Field(
        default=2.0, ge=0, description="Maximum time that shutdown waits for the last export, in seconds."
    )
    store_size: int = Field(
        default=2048,
        ge=0,
        description="Number of spans kept in the process if spans are not exported. The newest are kept.",
    )

    @field_validator("headers", mode="before")
    @classmethod
    def _headers(cls, value: object) -> object:
        return _pairs(value)

    @field_validator("headers")
    @classmethod
    def _sendable_headers(cls, value: dict[str, str]) -> dict[str, str]:
        if not all(_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(text) for name, text in value.items()):
            # found here, because what sends them would repeat them in its error
            message = "must have names of letters, digits and -, and values without control characters"
            raise ValueError(message)
        return value

    @field_validator("sampler")
    @classmethod
    def _sampler(cls, value: str) -> str:
        known = dict.fromkeys(
            (*_SAMPLERS, *(point.name for point in entry_points(group="opentelemetry_traces_sampler")))
        )
        if value.lower() not in _SAMPLERS and value not in known:
            message = f"must be one of {', '.join(known)}"
            raise ValueError(message)
        return value

    @field_validator("sampler_arg", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return str(value) if is_number else value

    @field_validator("sampler_arg")
    @classmethod
    def _ratio(cls, value: str, info: ValidationInfo) -> str:
        if value and str(info.data.get("sampler", "")).lower().endswith("traceidratio"):
            try:
                good = 0.0 <= float(value) <= 1.0
            except ValueError:
                good = False
            if not good:
                message = f"must be a number from 0 to 1 for sampler {info.data['sampler']}"
                raise ValueError(message)
        return value

    @field_validator("route_ratios")
    @classmethod
    def _follow_parents(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        sampler = str(info.data.get("sampler", ""))
        if value and sampler and not sampler.lower().startswith("parentbased_"):
            # otherwise the spans inside of a request would not follow its SERVER span
            message = f"needs a sampler that starts with parentbased_, and the sampler is {sampler}"
            raise ValueError(message)
        return value

    @property
    def exports(self) -> bool:
        """Whether spans leave the process."""
        if self.exporter == "none":
            return False
        return bool(self.exporter or self.endpoint or self.base_endpoint)

    @property
    def url(self) -> str:
        """URL of the OTLP receiver for spans: `endpoint`, else `base_endpoint`, over HTTP with the signal's path."""
        return signal_url(self.endpoint, self.base_endpoint, self.protocol, "traces")


class RequestsSettings(_Group):
    """Which requests are measured, and what their spans show."""

    excluded_urls: tuple[str, ...] = Field(
        default=(),
        examples=["/health,/docs,/openapi.json"],
        description="Regular expressions searched in the URL. Matching requests are not measured, nor is their SQL.",
    )
    known_methods: tuple[str, ...] = Field(
        default=HTTP_METHODS,
        examples=["GET,POST"],
        description="HTTP methods to report by name. All others are reported as `_OTHER`.",
    )
    capture_request_headers: tuple[str, ...] = Field(
        default=(),
        examples=["x-tenant,x-request-.*"],
        description="Request headers to record on the span: names or regular expressions.",
    )
    capture_response_headers: tuple[str, ...] = Field(
        default=(),
        examples=["content-type"],
        description="Response headers to record on the span: names or regular expressions.",
    )
    sanitize_headers: tuple[str, ...] = Field(
        default=(),
        examples=["authorization,.*token.*"],
        description="Captured headers whose values are replaced by `[REDACTED]`: names or regular expressions.",
    )
    capture_query_values: bool = Field(
        default=False, description="Record the values of query parameters on the span, not only their names."
    )
    trust_incoming: bool = Field(
        default=True,
        description="Continue the trace named in the caller's headers. Switch it off for services open to the public.",
    )
    websocket_message_spans: int = Field(
        default=0,
        ge=0,
        le=1000,
        examples=["20"],
        description="Maximum number of spans a second for the messages of a websocket connection; further ones have"
        " none, and are counted. 0 makes none.",
    )
    graphql_operations: bool = Field(
        default=False,
        description="Add the operation to the routes of strawberry's GraphQL: `/graphql getOrders`. See"
        " docs/graphql.md.",
    )
    attribute_length: int = Field(
        default=1024,
        ge=64,
        description="Maximum length, in characters, of a span attribute that the client chooses: path, query, host,"
        " method, user agent, captured headers.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _lists(cls, value: object, info: Any) -> object:
        is_list = isinstance(cls.model_fields[info.field_name].default, tuple)
        return _names(value) if is_list else value

    @field_validator("excluded_urls", "capture_request_headers", "capture_response_headers", "sanitize_headers")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _regular_expressions(value)


class DatabaseSettings(_Group):
    """SQL statements and connection pools."""

    enabled: bool = Field(default=True, description="Measure SQL statements and connection pools.")
    client_span: Literal["own", "contrib"] = Field(
        default="own",
        description="Which library creates the span of a statement: this one (`own`) or"
        " `opentelemetry-instrumentation-sqlalchemy` (`contrib`).",
    )
    sql_comments: SqlComments = Field(
        default="off",
        examples=["route"],
        description="Comments on statements for the database to see, as sqlcommenter defines them: the route (`route`),"
        " and the trace where no driver and no database keeps statements by their text (`traceparent`), or on all"
        " (`traceparent_everywhere`). See docs/sql-comments.md for the cost.",
    )
    query_text: bool = Field(
        default=True, description="Record the statement on its span, without literals and parameter values."
    )
    query_text_length: int = Field(
        default=4096, ge=64, description="Maximum length of a recorded statement, in characters."
    )
    n_plus_one: int = Field(
        default=6,
        ge=2,
        description="Minimum number of runs of a statement by one line of code within one request, for an `n_plus_one`"
        " finding.",
    )
    n_plus_one_seconds: float = Field(
        default=0.002, ge=0, description="Minimum total time of these runs for an `n_plus_one` finding, in seconds."
    )
    slow_query: float = Field(
        default=0.5, gt=0, description="Minimum duration of a statement for a `slow_query` finding, in seconds."
    )
    frequent_query: float = Field(
        default=0.075,
        gt=0,
        description="Minimum duration of a statement that takes most of its route, for a `slow_query` finding, in"
        " seconds.",
    )
    frequent_query_share: float = Field(
        default=0.5, gt=0, le=1, description="Minimum share of its route's time for such a statement."
    )
    large_result: int = Field(
        default=5000, ge=1, description="Minimum number of rows of a statement for a `large_result` finding."
    )
    large_result_seconds: float = Field(
        default=0.1,
        ge=0,
        description="Minimum time that a request spends on these rows for a `large_result` finding, in seconds.",
    )
    sync_on_loop: float = Field(
        default=0.0005,
        ge=0,
        description="Minimum time per request that synchronous statements block the event loop for a `sync_db_on_loop`"
        " finding, in seconds.",
    )
    commits: int = Field(
        default=6,
        ge=2,
        description="Minimum number of COMMITs of one line of code within one request for a `slow_commit` finding, if"
        " they take a noticeable share of its time.",
    )
    slow_commit: float = Field(
        default=0.1,
        gt=0,
        description="Minimum duration of one COMMIT or ROLLBACK for a `slow_commit` finding, in seconds, if it takes a"
        " large share of the request's time.",
    )
    lock_wait: float = Field(
        default=0.1,
        gt=0,
        description="Minimum wait of a statement, a task or a thread for a lock for a `lock_wait` finding, in seconds.",
    )
    pool_wait: float = Field(
        default=0.05, gt=0, description="Minimum wait for a connection for a `pool_wait` finding, in seconds."
    )


class ClientsSettings(_Group):
    """Calls of other services: HTTP, caches, messages, remote procedures, database drivers."""

    enabled: bool = Field(default=True, description="Measure outgoing calls.")
    instrument: bool = Field(
        default=True,
        description="Switch on the installed client instrumentations of OpenTelemetry, such as"
        " `opentelemetry-instrumentation-httpx`, which make the spans of outgoing calls.",
    )
    disabled: tuple[str, ...] = Field(
        default=(),
        examples=["redis,urllib3"],
        description="Client instrumentations to leave off, by the names of their entry points; `*` for all.",
    )
    query_values: bool = Field(
        default=False,
        description="Record the values of query parameters on the spans of HTTP calls, not only their names.",
    )
    n_plus_one: int = Field(
        default=5,
        ge=2,
        description="Minimum number of consecutive calls of one kind by one line of code within one request, for an"
        " `n_plus_one` finding.",
    )
    n_plus_one_seconds: float = Field(
        default=0.005, ge=0, description="Minimum total time of these calls for an `n_plus_one` finding, in seconds."
    )
    slow_dependency: float = Field(
        default=0.3, gt=0, description="Minimum duration of a call for a `slow_dependency` finding, in seconds."
    )
    slow_dependency_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Minimum share of a request that the calls of one service take for a `slow_dependency` finding.",
    )
    serial_calls: float = Field(
        default=0.1,
        gt=0,
        description="Minimum time that parallel calls would save for a `serial_calls` finding, in seconds.",
    )
    serial_calls_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Minimum share of a request that parallel calls would save for a `serial_calls` finding.",
    )

    @field_validator("disabled", mode="before")
    @classmethod
    def _disabled(cls, value: object) -> object:
        return _names(value)


class ExplainSettings(_Group):
    """Query plans of slow statements, fetched on a separate connection."""

    enabled: bool = Field(
        default=False, description="Fetch the query plan of slow statements with EXPLAIN, never with ANALYZE."
    )
    cooldown: float = Field(
        default=600.0, ge=0, description="Minimum time between two plans of the same statement, in seconds."
    )
    timeout: float = Field(default=2.0, gt=0, description="Timeout of one EXPLAIN, in seconds.")
    max_length: int = Field(default=4096, ge=256, description="Maximum length of a plan that is shown, in characters.")


class MiddlewareSettings(_Group):
    """Self time of the app's middleware."""

    enabled: bool = Field(default=True, description="Measure the self time of each middleware.")
    slow_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Minimum self time as a fraction of the request's duration for a `slow_middleware` finding.",
    )
    slow_seconds: float = Field(
        default=0.01, ge=0, description="Minimum self time for a `slow_middleware` finding, in seconds."
    )


class MetricsSettings(_Group):
    """The metrics page for Prometheus."""

    enabled: bool = Field(default=True, description="Serve the metrics page.")
    path: str = Field(default="/metrics", examples=["/internal/metrics"], description="Path of the metrics page.")
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        examples=["9464"],
        description="Serve the metrics page on a separate port, which responds even while the event loop is blocked.",
    )
    host: str = Field(
        default="127.0.0.1",
        examples=["0.0.0.0"],  # noqa: S104 - an example; the default is loopback
        description="Address to bind the separate port to.",
    )
    bearer_token: SecretStr | None = Field(
        default=None,
        min_length=8,
        examples=["a-long-random-word"],
        description="Require `Authorization: Bearer <token>` for the metrics page. At least 8 characters.",
    )
    exemplars: bool = Field(
        default=True, description="Attach the trace ids of sampled requests to histograms, as exemplars."
    )
    max_series: int = Field(
        default=2000,
        ge=1,
        description="Maximum number of label sets per metric. Further ones are combined into one labelled `_OVERFLOW`.",
    )
    time_to_first_byte: bool = Field(
        default=False,
        description="Measure the time to the first byte of each response's body, by route:"
        " `fastperf_request_time_to_first_byte_seconds`. For routes that stream, such as answers of language models.",
    )
    buckets: _Buckets = Field(
        default={},
        examples=[
            "http_server_request_duration_seconds=0.05 0.1 0.3 0.5 1,db_client_operation_duration_seconds=0.01 0.1"
        ],
        description="Upper bounds of the buckets of histograms, in place of those in docs/metrics.md, as"
        " `name=bound bound` pairs separated by commas.",
    )
    default_registry: bool = Field(
        default=True,
        description="Also serve the app's own metrics from prometheus_client's default registry.",
    )
    exporter: _Names = Field(
        default=(),
        examples=["otlp"],
        description="`otlp` pushes the metrics to an OTLP receiver as well. Other names have no effect:"
        " `metrics.enabled` controls the page.",
    )
    endpoint: _ReceiverUrl = Field(
        default="",
        examples=["http://localhost:4318/v1/metrics"],
        description="URL of the OTLP receiver for metrics, used unchanged. Empty means `traces.base_endpoint`, with"
        " `/v1/metrics` over HTTP.",
    )
    protocol: Literal["http/protobuf", "grpc"] = Field(
        default="http/protobuf", description="OTLP transport of metrics."
    )
    temporality: Literal["cumulative", "delta", "lowmemory"] = Field(
        default="cumulative",
        description="Whether pushed counters and histograms count from the start of the process (`cumulative`) or from"
        " the last push (`delta`, and here `lowmemory` too).",
    )
    export_interval_ms: float = Field(
        default=60_000.0, gt=0, description="Interval between two pushes of metrics, in milliseconds."
    )

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        return _page_path(value)


class WorkersSettings(_Group):
    """Several worker processes of one service."""

    enabled: bool = Field(
        default=True,
        description="Answer for all workers that the server runs, whichever of them is asked. Linux only.",
    )


class LoopSettings(_Group):
    """Lag, utilization and blocks of the event loop."""

    enabled: bool = Field(default=True, description="Measure the event loop.")
    interval: float = Field(
        default=0.05,
        ge=0.005,
        le=1.0,
        description="Interval between two heartbeats, in seconds. A loop that is idle for more than 90 % of its time"
        " beats every 0.25 s.",
    )
    start_after: float = Field(
        default=1.0,
        ge=0,
        description="Without a lifespan: delay between the first request on an event loop and the start of monitoring,"
        " in seconds. At 0 the request waits for it, which suits tests.",
    )
    blocked: float = Field(
        default=0.1, ge=0.02, description="Minimum duration of a block for a `blocking_call` finding, in seconds."
    )
    spans_per_minute: int = Field(
        default=30,
        ge=0,
        description="Maximum number of `event loop blocked` spans per minute. Further blocks are only counted.",
    )


class ThreadsSettings(_Group):
    """anyio's thread pool, which runs `def` endpoints."""

    enabled: bool = Field(default=True, description="Measure the thread pool.")
    wait: float = Field(
        default=0.05, gt=0, description="Minimum wait for a thread for a `threadpool_wait` finding, in seconds."
    )


class AwaitingSettings(_Group):
    """What slow requests await, and at which line of the application."""

    enabled: bool = Field(default=True, description="Sample what slow requests await.")
    after: float = Field(
        default=0.1, ge=0.01, description="Age from which a request is sampled, in seconds. Younger ones cost nothing."
    )


class LogsSettings(_Group):
    """Correlation of log records with traces, and their export."""

    enabled: bool = Field(default=True, description="Add `trace_id`, `span_id` and `route` to every log record.")
    exporter: _Names = Field(
        default=(),
        examples=["otlp"],
        description="`otlp` exports the log records that reach the root logger, and findings as events. Other names"
        " have no effect.",
    )
    endpoint: _ReceiverUrl = Field(
        default="",
        examples=["http://localhost:4318/v1/logs"],
        description="URL of the OTLP receiver for log records, used unchanged. Empty means `traces.base_endpoint`,"
        " with `/v1/logs` over HTTP.",
    )
    protocol: Literal["http/protobuf", "grpc"] = Field(
        default="http/protobuf", description="OTLP transport of log records."
    )
    queue_size: int = Field(
        default=2048,
        ge=1,
        description="Maximum number of log records waiting for export. When full, the oldest are dropped and counted.",
    )


class MemorySettings(_Group):
    """Memory of the process, its cgroup limit, and the garbage collector."""

    enabled: bool = Field(default=True, description="Measure memory and the pauses of the garbage collector.")
    interval: float = Field(default=10.0, ge=0.1, description="Interval between two measurements, in seconds.")
    growth_window: float = Field(
        default=600.0,
        ge=1,
        description="Window over which memory must grow steadily for a `memory_growth` finding, in seconds.",
    )
    growth_bytes: int = Field(
        default=50 * 1024 * 1024,
        ge=0,
        description="Minimum growth within `growth_window` for a `memory_growth` finding, in bytes.",
    )
    forecast: float = Field(
        default=4 * 3600.0,
        gt=0,
        description="Growth that will reach the cgroup limit within this time is `critical`, in seconds.",
    )
    gc_pause: float = Field(
        default=0.05,
        gt=0,
        description="Minimum pause of the garbage collector for a `gc_pause` finding, in seconds.",
    )


class CacheSettings(_Group):
    """Caches passed to `observe_cache`, and the app's functions with `functools.lru_cache`."""

    enabled: bool = Field(default=True, description="Measure caches.")
    discover: bool = Field(default=True, description="Discover the app's functions with `functools.lru_cache`.")
    hit_ratio: float = Field(
        default=0.2, ge=0, le=1, description="Hit ratio below which a cache is reported as `cache_inefficient`."
    )
    lookups: int = Field(default=500, ge=1, description="Number of look-ups between two assessments of a cache.")
    unbounded_size: int = Field(
        default=10_000,
        ge=1,
        description="Number of entries from which a growing cache without a size limit is reported as"
        " `cache_inefficient`.",
    )
    interval: float = Field(default=10.0, ge=0.1, description="Interval between two measurements, in seconds.")


class FindingsSettings(_Group):
    """Detection and reporting of bottlenecks."""

    enabled: bool = Field(default=True, description="Look for bottlenecks.")
    disabled: tuple[str, ...] = Field(
        default=(),
        examples=["gc_pause,slow_middleware"],
        description="Kinds of findings not to report.",
    )
    most: int = Field(
        default=200,
        ge=1,
        description="Maximum number of distinct findings kept. The least recently seen are dropped first.",
    )
    slow_route: float = Field(
        default=0.5,
        gt=0,
        description="Seconds of a route's 95th percentile from which reports call it slow.",
    )
    warnings_per_minute: int = Field(
        default=10,
        ge=0,
        description="Maximum number of log warnings about new findings per minute. Further findings are only counted.",
    )

    @field_validator("disabled", mode="before")
    @classmethod
    def _disabled(cls, value: object) -> object:
        return _names(value)

    @field_validator("disabled")
    @classmethod
    def _kinds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for kind in value:
            if kind not in list(Kind):
                message = f"{kind!r} is not a kind of finding ({', '.join(Kind)})"
                raise ValueError(message)
        return value


class DebugSettings(_Group):
    """The debug route, which `otel-fastperf doctor` reads."""

    enabled: bool = Field(default=True, description="Serve the debug route.")
    path: str = Field(default=DEBUG_PATH, examples=["/internal/debug"], description="Path of the debug route.")
    token: SecretStr | None = Field(
        default=None,
        min_length=8,
        examples=["a-long-random-word"],
        description="Require `Authorization: Bearer <token>` for the debug route. At least 8 characters. Without a"
        " token, only requests from the same machine are answered.",
    )

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        return _page_path(value)


class Settings(BaseModel):
    """All settings. `Settings()` reads the environment; arguments take precedence over it, setting by setting.

    Groups are given as dicts: `Settings(service_name="shop", metrics={"path": "/internal/metrics"})`.
    `docs/settings.md` lists every setting with its variables, default and meaning.

    Attributes:
        sdk_disabled: Disable everything.
        service_name: Name of the service.
        resource_attributes: Further attributes of the service.
        propagators: Formats of the headers that carry the trace between services.
        server_span: Where the span of a request comes from: `own`, `native` (FastAPI) or `contrib` (OpenTelemetry).
        exceptions: How much of an exception spans and logs show: `scrubbed`, `full` or `type`.
        traces: Sampling, storage and export of spans.
        requests: Which requests are measured, and what their spans show.
        database: SQL statements and connection pools.
        clients: Calls of other services.
        explain: Query plans of slow statements.
        middleware: Self time of the app's middleware.
        metrics: The metrics page for Prometheus.
        loop: Lag, utilization and blocks of the event loop.
        threads: anyio's thread pool.
        awaiting: What slow requests await, and at which line.
        memory: Memory of the process, its cgroup limit, and the garbage collector.
        cache: Caches of the app.
        logs: Correlation of log records with traces.
        findings: Detection and reporting of bottlenecks.
        debug: The debug route.

    Raises:
        SettingsError: Arguments or variables are wrong. The message has one line for each.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    sdk_disabled: bool = Field(
        default=False, examples=["true"], description="Disable everything: no threads, no sockets, no middleware."
    )
    service_name: str | None = Field(
        default=None, examples=["shop"], description="Name of the service; the resource attribute `service.name`."
    )
    resource_attributes: dict[str, str] = Field(
        default={},
        examples=["deployment.environment.name=prod"],
        description="Resource attributes of the service, as `key=value` pairs separated by commas.",
    )
    propagators: tuple[str, ...] = Field(
        default=("tracecontext", "baggage"),
        examples=["tracecontext"],
        description="Formats of the headers that carry the trace between services.",
    )
    server_span: Literal["own", "native", "contrib"] = Field(
        default="own",
        description="Which library creates the span of a request: this one (`own`), FastAPI (`native`) or"
        " `opentelemetry-instrumentation-fastapi` (`contrib`).",
    )

    exceptions: ErrorDetail = Field(
        default="scrubbed",
        description="How much of an exception spans, logs and findings show: its message and stack trace without quoted"
        " inputs, credentials, values of URLs and of SQL (`scrubbed`), all of it (`full`), or types and lines only"
        " (`type`).",
    )

    traces: TracesSettings = TracesSettings()
    requests: RequestsSettings = RequestsSettings()
    database: DatabaseSettings = DatabaseSettings()
    clients: ClientsSettings = ClientsSettings()
    explain: ExplainSettings = ExplainSettings()
    middleware: MiddlewareSettings = MiddlewareSettings()
    metrics: MetricsSettings = MetricsSettings()
    workers: WorkersSettings = WorkersSettings()
    loop: LoopSettings = LoopSettings()
    threads: ThreadsSettings = ThreadsSettings()
    awaiting: AwaitingSettings = AwaitingSettings()
    memory: MemorySettings = MemorySettings()
    cache: CacheSettings = CacheSettings()
    logs: LogsSettings = LogsSettings()
    findings: FindingsSettings = FindingsSettings()
    debug: DebugSettings = DebugSettings()

    def __init__(self, **values: Any) -> None:
        self._read(_ENVIRONMENT, values)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **values: Any) -> Self:
        """Settings from `environ` in place of the process's environment; arguments take precedence over it.

        Raises:
            SettingsError: Arguments or variables are wrong. The message has one line for each.
        """
        settings = cls.__new__(cls)
        settings._read(environ, values)  # noqa: SLF001 - a second constructor
        return settings

    def _read(self, environ: Mapping[str, str], values: Mapping[str, Any]) -> None:
        wrong = list(_unknown_variables(environ))
        try:
            super().__init__(**_merged(_nested(environ), values))
        except ValidationError as error:
            # a variable may be that of two signals
            wrong = [*dict.fromkeys(_lines(error, values, environ)), *wrong]
        if wrong:
            count = "1 setting is" if len(wrong) == 1 else f"{len(wrong)} settings are"
            message = "\n  ".join((f"otel_fastperf: {count} wrong:", *wrong))
            raise SettingsError(message)

    @field_validator("resource_attributes", mode="before")
    @classmethod
    def _resource_attributes(cls, value: object) -> object:
        return _pairs(value)

    @field_validator("propagators", mode="before")
    @classmethod
    def _propagator_names(cls, value: object) -> object:
        return _names(value)

    @field_validator("propagators")
    @classmethod
    def _propagators(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = {"none", *(point.name for point in entry_points(group="opentelemetry_propagator"))}
        for name in value:
            if name not in known:
                message = f"{name!r} is not an installed propagator ({', '.join(sorted(known))})"
                raise ValueError(message)
        return value


def propagators_of_environment() -> tuple[str, ...]:
    """The propagators that the OpenTelemetry API installed: it reads `OTEL_PROPAGATORS` when it is imported."""
    names = _names(_ENVIRONMENT.get("OTEL_PROPAGATORS", ""))
    default: tuple[str, ...] = Settings.model_fields["propagators"].default
    return names if isinstance(names, tuple) and names else default


def spelled(value: object) -> str:
    """A value as it is written in a variable."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(value) if isinstance(value, tuple | dict) else str(value)


def _own_variables() -> dict[str, str]:
    own: dict[str, str] = {}
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, _Group):
            own |= {f"{PREFIX}{name}_{inner}".upper(): f"{name}.{inner}" for inner in group.model_fields}
        else:
            own[f"{PREFIX}{name}".upper()] = name
    return own


#: our variables and the settings they set: `OTEL_FASTPERF_METRICS_PATH` -> `metrics.path`
OWN: Final = _own_variables()


def _nested(environ: Mapping[str, str]) -> dict[str, Any]:
    """The values of all variables, nested like `Settings`: `{"service_name": "shop", "traces": {"endpoint": …}}`.

    Ours come after OpenTelemetry's and so win. An empty variable counts as unset, as in OpenTelemetry's specification.
    """
    values: dict[str, Any] = {}
    for variable, target in (*STANDARD, *OWN.items()):
        text = environ.get(variable, "").strip()
        if text:
            group, _, name = target.rpartition(".")
            (values.setdefault(group, {}) if group else values)[name] = _normalized(variable, text)
    return values


def _normalized(variable: str, text: str) -> str:
    if variable == "OTEL_SDK_DISABLED":
        # sdk-environment-variables: only "true", in any case, is true; everything else is false
        return str(text.lower() == "true")
    if variable in _IN_LOWER_CASE:
        return text.lower()
    return text


def _merged(environment: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments over the environment. A group given as a dict overrides only the settings that it names."""
    merged = dict(environment)
    for name, value in values.items():
        below = merged.get(name)
        merged[name] = {**below, **value} if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in OWN:
            # without the value: the name may be that of a secret, misspelt
            yield f"{variable}: {_unknown(variable, OWN)}"


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"use {near[0]}, the closest name" if near else "choose one from docs/settings.md"
    return f"there is no such setting. Remedy: {remedy}."


def _lines(error: ValidationError, values: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    for detail in error.errors():
        path = ".".join(str(part) for part in detail["loc"][:2])
        if detail["type"] == "extra_forbidden":
            yield f"{path}: {_unknown(path, OWN.values())}"
            continue
        rule = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        yield f"{_key(path, values, environ)}={_shown(path, detail['input'])}: {rule}.{_remedy(path)}"


def _key(path: str, values: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The name by which the user gave the value: the argument, our variable, or OpenTelemetry's."""
    group, _, name = path.partition(".")
    given = values.get(group)
    if group in values and (not name or not isinstance(given, Mapping) or name in given):
        return path
    own = [variable for variable, target in OWN.items() if target == path]
    standard = [variable for variable, target in reversed(STANDARD) if target == path]
    return next((variable for variable in (*own, *standard) if environ.get(variable, "").strip()), path)


#: settings that are dicts, without secrets
_SHOWN: Final = frozenset({"metrics.buckets", "traces.route_ratios"})


def _shown(path: str, value: object) -> str:
    if path in {"metrics.bearer_token", "debug.token", "traces.headers"}:
        return "(secret)"
    if isinstance(value, str):
        return repr(without_userinfo(value))
    return repr(value) if isinstance(value, int | float | bool | tuple) or path in _SHOWN else "…"


def _remedy(path: str) -> str:
    field = _field(path)
    example = "" if field is None else next(iter(field.examples or ()), spelled(field.default))
    return f" Remedy: write for example {example}." if example else ""


def _field(path: str) -> FieldInfo | None:
    group, _, name = path.partition(".")
    field = Settings.model_fields.get(group)
    if field is not None and name and isinstance(field.annotation, type) and issubclass(field.annotation, _Group):
        return field.annotation.model_fields.get(name)
    return field

"""Settings: OpenTelemetry's own variables first, ours as `OTEL_FASTPERF_<GROUP>_<NAME>`, arguments over both.

    Settings(metrics={"path": "/internal/metrics"})        argument
    OTEL_FASTPERF_METRICS_PATH=/internal/metrics           the same, from the environment
    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318      OpenTelemetry's variable, here `traces.endpoint`

Every part of the package receives its own group and no more. Wrong values fail in one `SettingsError` that lists all.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from otel_fastperf.errors import SettingsError
from otel_fastperf.findings import Kind

PREFIX: Final = "OTEL_FASTPERF_"

#: OpenTelemetry's variables, where their values go, most specific last. Their meaning is OpenTelemetry's.
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
    ("OTEL_BSP_MAX_QUEUE_SIZE", "traces.queue_size"),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "traces.batch_size"),
    ("OTEL_BSP_SCHEDULE_DELAY", "traces.delay_ms"),
    ("OTEL_PYTHON_EXCLUDED_URLS", "requests.excluded_urls"),
    ("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "requests.excluded_urls"),
    ("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "requests.known_methods"),
    ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", "requests.capture_request_headers"),
    ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE", "requests.capture_response_headers"),
    ("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS", "requests.sanitize_headers"),
)

#: https://opentelemetry.io/docs/specs/semconv/http/http-spans/ : the methods of RFC 9110, PATCH and QUERY
HTTP_METHODS: Final = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")

_SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)


def _names(value: object) -> object:
    """`"a, b"` -> `("a", "b")`; anything else as it is."""
    if isinstance(value, str):
        return tuple(part for part in (part.strip() for part in value.split(",")) if part)
    return value


def _pairs(value: object) -> object:
    """`"k=v,k2=v%202"` -> a dict, as W3C baggage has it and OpenTelemetry's header variables use it."""
    if not isinstance(value, str):
        return value
    pairs = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        key, equals, text = part.partition("=")
        if not equals or not key.strip():
            # not which one: headers are secrets
            message = "must be key=value pairs with commas between them"
            raise ValueError(message)
        pairs[key.strip()] = unquote(text.strip())
    return pairs


def _regular_expressions(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            message = f"{pattern!r} is not a regular expression ({error})"
            raise ValueError(message) from None
    try:
        # they are joined, to search once for all of them
        re.compile("|".join(patterns))
    except re.error as error:
        message = f"together they are no regular expression ({error}); write (?i:pattern) for (?i)pattern"
        raise ValueError(message) from None
    return patterns


def _page_path(value: str) -> str:
    if not value.startswith("/") or value == "/" or re.search(r"[\s?#{}]", value):
        message = "must start with / and name a path, without spaces, braces, ? and #"
        raise ValueError(message)
    return value


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TracesSettings(_Group):
    """How spans are sampled, kept and exported."""

    sampler: str = Field(
        default="parentbased_always_on",
        examples=["parentbased_traceidratio"],
        description="Which requests get spans that are recorded.",
    )
    sampler_arg: str = Field(
        default="",
        examples=["0.1"],
        description="Argument of the sampler: for the traceidratio ones the share of traces to keep, 0 to 1.",
    )
    exporter: Literal["", "otlp", "console", "none"] = Field(
        default="",
        examples=["otlp"],
        description="Where spans go; empty means `otlp` if an endpoint is set, and nowhere if none is.",
    )
    base_endpoint: str = Field(
        default="",
        examples=["http://localhost:4318"],
        description="URL of the OTLP receiver for all signals; over HTTP, `/v1/traces` is appended.",
    )
    endpoint: str = Field(
        default="",
        examples=["http://localhost:4318/v1/traces"],
        description="URL for spans alone, taken as it is; it wins over the one for all signals.",
    )
    protocol: Literal["http/protobuf", "grpc"] = Field(
        default="http/protobuf", examples=["http/protobuf"], description="How OTLP is transported."
    )
    headers: dict[str, str] = Field(
        default={},
        examples=["api-key=abc"],
        description="Headers or gRPC metadata of each export, `key=value` with commas between.",
    )
    timeout: float = Field(default=10.0, gt=0, examples=["10"], description="Most time for one export, in seconds.")
    compression: Literal["none", "gzip", "deflate"] = Field(
        default="gzip", examples=["gzip"], description="Compression of the exported bodies."
    )
    queue_size: int = Field(
        default=8192,
        gt=0,
        examples=["8192"],
        description="Most spans that wait for export; further ones are dropped and counted.",
    )
    batch_size: int = Field(default=512, gt=0, examples=["512"], description="Most spans in one export.")
    delay_ms: float = Field(
        default=1000.0,
        gt=0,
        examples=["1000"],
        description="Longest time a span waits for its batch to fill, in milliseconds.",
    )
    exit_timeout: float = Field(
        default=2.0,
        ge=0,
        examples=["2"],
        description="Most time that the end of the process waits for the last export, in seconds.",
    )
    store_size: int = Field(
        default=2048,
        ge=0,
        examples=["2048"],
        description="Spans kept in the process when nothing is exported; the oldest go first.",
    )

    @field_validator("headers", mode="before")
    @classmethod
    def _headers(cls, value: object) -> object:
        return _pairs(value)

    @field_validator("sampler")
    @classmethod
    def _sampler(cls, value: str) -> str:
        known = (*_SAMPLERS, *(point.name for point in entry_points(group="opentelemetry_traces_sampler")))
        if value.lower() not in _SAMPLERS and value not in known:
            message = f"must be one of {', '.join(known)}"
            raise ValueError(message)
        return value

    @field_validator("base_endpoint", "endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
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

    @property
    def exports(self) -> bool:
        """Is there somewhere to export to? No endpoint configured means no export."""
        if self.exporter == "none":
            return False
        return bool(self.exporter or self.endpoint or self.base_endpoint)

    @property
    def url(self) -> str:
        """Where OTLP goes: the traces endpoint as it is, or the base endpoint with the signal's path (http only)."""
        if self.endpoint:
            return self.endpoint
        if self.protocol == "grpc":
            return self.base_endpoint or "http://localhost:4317"
        return (self.base_endpoint or "http://localhost:4318").rstrip("/") + "/v1/traces"


class RequestsSettings(_Group):
    """What is measured of a request, and of which."""

    excluded_urls: tuple[str, ...] = Field(
        default=(),
        examples=["/health,/docs,/openapi.json"],
        description="Regular expressions, searched in the URL: requests that match are not measured, nor is their SQL.",
    )
    known_methods: tuple[str, ...] = Field(
        default=HTTP_METHODS,
        examples=["GET,POST"],
        description="HTTP methods that are told apart; all others count as `_OTHER`.",
    )
    capture_request_headers: tuple[str, ...] = Field(
        default=(),
        examples=["x-tenant,x-request-.*"],
        description="Request headers to put on the span: names or regular expressions.",
    )
    capture_response_headers: tuple[str, ...] = Field(
        default=(),
        examples=["content-type"],
        description="Response headers to put on the span: names or regular expressions.",
    )
    sanitize_headers: tuple[str, ...] = Field(
        default=(),
        examples=["authorization,.*token.*"],
        description="Captured headers whose value is replaced by `[REDACTED]`: names or regular expressions.",
    )
    capture_query_values: bool = Field(
        default=False,
        examples=["false"],
        description="Put the values of the query string on the span too, not its keys alone.",
    )
    trust_incoming: bool = Field(
        default=True,
        examples=["true"],
        description="Continue the trace that the caller's headers name; switch off where callers are strangers.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _lists(cls, value: object, info: Any) -> object:
        return _names(value) if info.field_name not in {"capture_query_values", "trust_incoming"} else value

    @field_validator("excluded_urls", "capture_request_headers", "capture_response_headers", "sanitize_headers")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _regular_expressions(value)


class DatabaseSettings(_Group):
    """SQL spans and metrics."""

    enabled: bool = Field(default=True, examples=["true"], description="Measure SQL statements and connection pools.")
    client_span: Literal["own", "contrib"] = Field(
        default="own",
        examples=["own"],
        description="Source of a statement's CLIENT span: this package, or opentelemetry-instrumentation-sqlalchemy.",
    )
    query_text: bool = Field(
        default=True,
        examples=["true"],
        description="Put the statement on its span, without literals and parameter values.",
    )
    query_text_length: int = Field(
        default=4096,
        ge=64,
        examples=["4096"],
        description="Longest statement on a span, in characters; the rest is cut off.",
    )
    n_plus_one: int = Field(
        default=6,
        ge=2,
        examples=["6"],
        description="A statement that one line repeats this often in a request, one after the other, is `n_plus_one`.",
    )
    n_plus_one_seconds: float = Field(
        default=0.002,
        ge=0,
        examples=["0.002"],
        description="Repeats of a statement that take less time than this together are no finding, in seconds.",
    )
    slow_query: float = Field(
        default=0.5,
        gt=0,
        examples=["0.5"],
        description="A statement that takes this long is a `slow_query`, in seconds.",
    )
    sync_on_loop: float = Field(
        default=0.0005,
        ge=0,
        examples=["0.0005"],
        description="Synchronous statements that hold the event loop this long in one request are `sync_db_on_loop`, in"
        " seconds.",
    )
    pool_wait: float = Field(
        default=0.05,
        gt=0,
        examples=["0.05"],
        description="Waiting this long for a connection is a `pool_wait`, in seconds.",
    )


class ExplainSettings(_Group):
    """EXPLAIN of slow queries, on a connection of its own."""

    enabled: bool = Field(
        default=False, examples=["true"], description="Ask the database for the plan of a slow query. Never ANALYZE."
    )
    cooldown: float = Field(
        default=600.0, ge=0, examples=["600"], description="Time between two plans of the same statement, in seconds."
    )
    timeout: float = Field(
        default=2.0, gt=0, examples=["2"], description="Most time that the database may take for a plan, in seconds."
    )
    max_length: int = Field(
        default=4096, ge=256, examples=["4096"], description="Longest plan that is shown, in characters."
    )


class MiddlewareSettings(_Group):
    """Self time of each middleware."""

    enabled: bool = Field(default=True, examples=["true"], description="Measure the self time of each middleware.")
    slow_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        examples=["0.25"],
        description="A middleware that takes this share of a request, and `slow_seconds`, is a `slow_middleware`.",
    )
    slow_seconds: float = Field(
        default=0.01, ge=0, examples=["0.01"], description="A middleware that takes less than this is none, in seconds."
    )


class MetricsSettings(_Group):
    """`/metrics`: where it is and who may read it."""

    enabled: bool = Field(default=True, examples=["true"], description="Serve the metrics page.")
    path: str = Field(default="/metrics", examples=["/metrics"], description="Path of the metrics page.")
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        examples=["9464"],
        description="Serve the page on a port of its own, which answers also while the event loop is blocked.",
    )
    host: str = Field(
        default="127.0.0.1",
        examples=["0.0.0.0"],  # noqa: S104 - an example; the default is loopback
        description="Address that the port of its own listens on.",
    )
    bearer_token: SecretStr | None = Field(
        default=None,
        min_length=8,
        examples=["a-long-random-word"],
        description="Answer only requests with `Authorization: Bearer <this>`, at least 8 characters.",
    )
    exemplars: bool = Field(
        default=True,
        examples=["true"],
        description="Attach the trace id of a sampled request to the histograms it counts in.",
    )
    max_series: int = Field(
        default=2000,
        ge=1,
        examples=["2000"],
        description="Most label sets of one metric; further ones share a series that is labelled `_OVERFLOW`.",
    )
    default_registry: bool = Field(
        default=True,
        examples=["true"],
        description="Show the app's own metrics, those on prometheus_client's default registry, on the same page.",
    )

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        return _page_path(value)


class LoopSettings(_Group):
    """The event loop's heartbeat."""

    enabled: bool = Field(
        default=True, examples=["true"], description="Measure the lag and the utilisation of the event loop."
    )
    interval: float = Field(
        default=0.05, ge=0.005, le=1.0, examples=["0.05"], description="Time between two measurements, in seconds."
    )
    start_after: float = Field(
        default=1.0,
        ge=0,
        examples=["1"],
        description="A loop without a lifespan is watched from this long after its first request, in seconds; with 0"
        " that request waits until it is, as tests need it.",
    )
    blocked: float = Field(
        default=0.1,
        ge=0.02,
        examples=["0.1"],
        description="Code that holds the event loop this long is a `blocking_call`, in seconds.",
    )
    spans_per_minute: int = Field(
        default=30,
        ge=0,
        examples=["30"],
        description="Most spans `event loop blocked` in a minute; further ones are counted only.",
    )


class ThreadsSettings(_Group):
    """anyio's thread pool."""

    enabled: bool = Field(
        default=True, examples=["true"], description="Measure anyio's thread pool, which runs `def` endpoints."
    )
    wait: float = Field(
        default=0.05,
        gt=0,
        examples=["0.05"],
        description="Waiting this long for a thread is a `threadpool_wait`, in seconds.",
    )


class LogsSettings(_Group):
    """Trace ids in log records."""

    enabled: bool = Field(
        default=True, examples=["true"], description="Put trace_id, span_id and route into every log record."
    )


class MemorySettings(_Group):
    """Memory, cgroup and GC."""

    enabled: bool = Field(
        default=True, examples=["true"], description="Measure memory and the pauses of the garbage collector."
    )
    interval: float = Field(
        default=10.0, ge=0.1, examples=["10"], description="Time between two measurements, in seconds."
    )
    growth_window: float = Field(
        default=600.0,
        ge=1,
        examples=["600"],
        description="Memory that grows over this time, full collections included, is `memory_growth`, in seconds.",
    )
    growth_bytes: int = Field(
        default=50 * 1024 * 1024,
        ge=0,
        examples=["52428800"],
        description="Growth of less than this in the window is none, in bytes.",
    )
    forecast: float = Field(
        default=4 * 3600.0,
        gt=0,
        examples=["14400"],
        description="Growth that reaches the cgroup's limit within this time is `critical`, in seconds.",
    )
    gc_pause: float = Field(
        default=0.05,
        gt=0,
        examples=["0.05"],
        description="A pause of the garbage collector this long is a `gc_pause`, in seconds.",
    )


class CacheSettings(_Group):
    """Caches: those that the app has handed over with `observe_cache`, and its functions with `functools.lru_cache`."""

    enabled: bool = Field(default=True, examples=["true"], description="Measure caches.")
    discover: bool = Field(
        default=True,
        examples=["true"],
        description="Find the app's functions with `functools.lru_cache` by themselves.",
    )
    hit_ratio: float = Field(
        default=0.2,
        ge=0,
        le=1,
        examples=["0.2"],
        description="A cache that answers a smaller share of its look-ups than this is `cache_inefficient`.",
    )
    lookups: int = Field(
        default=500,
        ge=1,
        examples=["500"],
        description="Look-ups between two judgements of a cache.",
    )
    unbounded_size: int = Field(
        default=10_000,
        ge=1,
        examples=["10000"],
        description="A cache without a limit that has so many entries, and still grows, is `cache_inefficient`.",
    )
    interval: float = Field(
        default=10.0, ge=0.1, examples=["10"], description="Time between two readings of the caches, in seconds."
    )


class FindingsSettings(_Group):
    """What is done with what was found."""

    enabled: bool = Field(default=True, examples=["true"], description="Look for bottlenecks.")
    disabled: tuple[str, ...] = Field(
        default=(),
        examples=["gc_pause,slow_middleware"],
        description="Kinds of findings that are not reported.",
    )
    most: int = Field(
        default=200, ge=1, examples=["200"], description="Findings that are kept; then the oldest are forgotten."
    )
    warnings_per_minute: int = Field(
        default=10,
        ge=0,
        examples=["10"],
        description="Most warnings in the log about new findings; further ones are counted only.",
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
                message = f"{kind!r} is no kind of finding ({', '.join(Kind)})"
                raise ValueError(message)
        return value


class DebugSettings(_Group):
    """The route that hands out findings and verdicts, for `otel-fastperf doctor`."""

    enabled: bool = Field(default=True, examples=["true"], description="Serve the debug route.")
    path: str = Field(default="/debug/fastperf", examples=["/debug/fastperf"], description="Path of the debug route.")
    token: SecretStr | None = Field(
        default=None,
        min_length=8,
        examples=["a-long-random-word"],
        description="Answer requests with `Authorization: Bearer <this>`; without it, only those from this machine.",
    )

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        return _page_path(value)


class _Environment(PydanticBaseSettingsSource):
    """OpenTelemetry's variables, then ours over them, as a nested dict. Empty means unset, as OpenTelemetry has it."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Required by the base class; values are read all at once, in `__call__`."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """Nested as `Settings` is: `{"service_name": "shop", "traces": {"endpoint": …}}`."""
        values: dict[str, Any] = {}
        for variable, target in (*STANDARD, *OWN.items()):
            text = os.environ.get(variable, "").strip()
            if text:
                group, _, name = target.rpartition(".")
                (values.setdefault(group, {}) if group else values)[name] = _spelled(variable, text)
        return values


def _spelled(variable: str, text: str) -> str:
    if variable == "OTEL_SDK_DISABLED":
        # sdk-environment-variables: only "true", in any case, is true; everything else is false
        return str(text.lower() == "true")
    if variable in {"OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION"}:
        return text.lower()
    return text


class Settings(BaseSettings):
    """All settings. `Settings()` reads the environment; arguments win over it, name by name.

    Raises:
        SettingsError: one message with a line for each wrong value, argument or variable.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    sdk_disabled: bool = Field(
        default=False, examples=["true"], description="Switch everything off: no thread, no socket, no middleware."
    )
    service_name: str | None = Field(
        default=None, examples=["shop"], description="Name of the service, in traces the attribute `service.name`."
    )
    resource_attributes: dict[str, str] = Field(
        default={},
        examples=["deployment.environment.name=prod"],
        description="Attributes of the service, `key=value` with commas between.",
    )
    propagators: tuple[str, ...] = Field(
        default=("tracecontext", "baggage"),
        examples=["tracecontext,baggage"],
        description="Which headers carry the trace from service to service.",
    )
    server_span: Literal["own", "native", "contrib"] = Field(
        default="own",
        examples=["own"],
        description="Who makes the span of a request: this package, FastAPI, or OpenTelemetry's contrib package.",
    )

    traces: TracesSettings = TracesSettings()
    requests: RequestsSettings = RequestsSettings()
    database: DatabaseSettings = DatabaseSettings()
    explain: ExplainSettings = ExplainSettings()
    middleware: MiddlewareSettings = MiddlewareSettings()
    metrics: MetricsSettings = MetricsSettings()
    loop: LoopSettings = LoopSettings()
    threads: ThreadsSettings = ThreadsSettings()
    memory: MemorySettings = MemorySettings()
    cache: CacheSettings = CacheSettings()
    logs: LogsSettings = LogsSettings()
    findings: FindingsSettings = FindingsSettings()
    debug: DebugSettings = DebugSettings()

    def __init__(self, **values: Any) -> None:
        """Read and check everything; see the class."""
        wrong = list(_unknown_variables(os.environ))
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong = [*_lines(error, values, os.environ), *wrong]
        if wrong:
            count = "1 setting is" if len(wrong) == 1 else f"{len(wrong)} settings are"
            message = "\n  ".join((f"otel_fastperf: {count} wrong:", *wrong))
            raise SettingsError(message)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then our own reading of the environment; no `.env` files and no secrets folder."""
        return init_settings, _Environment(settings_cls)

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
                message = f"{name!r} is not a propagator that is installed ({', '.join(sorted(known))})"
                raise ValueError(message)
        return value


def propagators_of_environment() -> tuple[str, ...]:
    """What the OpenTelemetry API itself has installed: it reads `OTEL_PROPAGATORS` when it is imported."""
    names = _names(os.environ.get("OTEL_PROPAGATORS", ""))
    default: tuple[str, ...] = Settings.model_fields["propagators"].default
    return names if isinstance(names, tuple) and names else default


def _own_variables() -> dict[str, str]:
    own: dict[str, str] = {}
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, _Group):
            own |= {f"{PREFIX}{name}_{inner}".upper(): f"{name}.{inner}" for inner in group.model_fields}
        else:
            own[f"{PREFIX}{name}".upper()] = name
    return own


#: our variables and where their values go: `OTEL_FASTPERF_METRICS_PATH` -> `metrics.path`
OWN: Final = _own_variables()


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in OWN:
            near = difflib.get_close_matches(variable, OWN, n=1)
            cure = f"did you mean {near[0]}?" if near else "see the settings table in the README."
            yield f"{variable}={environ[variable]!r}: there is no such setting; {cure}"


def _lines(error: ValidationError, values: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    for detail in error.errors():
        path = ".".join(str(part) for part in detail["loc"][:2])
        if detail["type"] == "extra_forbidden":
            near = difflib.get_close_matches(path, OWN.values(), n=1)
            cure = f"did you mean {near[0]}?" if near else "see the settings table in the README."
            yield f"{path}: there is no such setting; {cure}"
            continue
        rule = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        yield f"{_key(path, values, environ)}={_shown(path, detail['input'])}: {rule}.{_cure(path)}"


def _key(path: str, values: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The name under which the user gave the value: the argument, our variable, or OpenTelemetry's."""
    group, _, name = path.partition(".")
    given = values.get(group)
    if group in values and (not name or not isinstance(given, Mapping) or name in given):
        return path
    own = [variable for variable, target in OWN.items() if target == path]
    standard = [variable for variable, target in reversed(STANDARD) if target == path]
    return next((variable for variable in (*own, *standard) if environ.get(variable, "").strip()), path)


def _shown(path: str, value: object) -> str:
    if path in {"metrics.bearer_token", "debug.token", "traces.headers"}:
        return "(secret)"
    return repr(value) if isinstance(value, str | int | float | bool | tuple) else "…"


def _cure(path: str) -> str:
    group, _, name = path.partition(".")
    field = Settings.model_fields.get(group)
    if field is not None and name and isinstance(field.annotation, type) and issubclass(field.annotation, _Group):
        field = field.annotation.model_fields.get(name)
    return f" Write for instance {field.examples[0]}." if field is not None and field.examples else ""

"""Jaeger with this repository's configuration, on free ports of 127.0.0.1, and a client for its APIs.

Use:
    with running_jaeger(folder, prometheus=9090) as jaeger:
        export(jaeger.endpoint, [Sent("GET /items", trace_id=trace_id)], service="shop")
        spans = jaeger.wait_for(trace_id, spans=1)
"""

import json
import re
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.deploy.servers import DEPLOY, Running, answers, program, running
from tests.serving import free_port, wait_until

FOLDER: Final = DEPLOY / "jaeger"
UI_CONFIG: Final = FOLDER / "ui-config.json"

#: nobody listens
NOWHERE: Final = 9

#: seconds within which a span that was sent must be found
FOUND_WITHIN_SECONDS: Final = 15.0


@dataclass(frozen=True)
class JaegerSpan:
    """A span as Jaeger shows it. Ids are hex; `parent_id` is "" for a root; `milliseconds` is its duration."""

    name: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    failed: bool
    milliseconds: float
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: list[str]


@dataclass(frozen=True)
class Summary:
    """A summary of a trace. `root` is the name of its first span without a parent."""

    trace_id: str
    root: str
    spans: int
    errors: int


@dataclass
class Jaeger:
    """A running Jaeger. `url` is the base of its pages and APIs, base path included."""

    server: Running
    url: str
    otlp_grpc_port: int
    otlp_http_port: int
    metrics_url: str

    @property
    def endpoint(self) -> str:
        """Base address for OTLP over HTTP."""
        return f"http://127.0.0.1:{self.otlp_http_port}"

    def services(self) -> set[str]:
        """Names of services with spans."""
        return set(self._get("/api/v3/services").get("services") or ())

    def operations(self, service: str) -> set[str]:
        """Names of the spans of a service."""
        return {each["name"] for each in self._get("/api/v3/operations", service=service).get("operations") or ()}

    def trace(self, trace_id: str) -> list[JaegerSpan]:
        """The spans of a trace, by start; empty if Jaeger does not have it."""
        return _spans(self._get(f"/api/v3/traces/{trace_id}"))

    def wait_for(self, trace_id: str, spans: int = 1, seconds: float = FOUND_WITHIN_SECONDS) -> list[JaegerSpan]:
        """Wait until the trace has that many spans, and return them; otherwise fail."""
        found: list[JaegerSpan] = wait_until(
            lambda: spans_of if len(spans_of := self.trace(trace_id)) >= spans else None,
            seconds=seconds,
            what=f"trace {trace_id} has {spans} spans",
        )
        return found

    def traces(self, service: str, *, limit: int = 1000) -> list[Summary]:
        """Summaries of a service's latest traces in the last hour. `limit` must not exceed the number in memory."""
        now = datetime.now(UTC)
        query = {
            "query.service_name": service,
            "query.start_time_min": _rfc3339(now - timedelta(hours=1)),
            "query.start_time_max": _rfc3339(now + timedelta(minutes=1)),
            "query.num_traces": str(limit),
            # the old and the new name of each; every version of Jaeger reads one of them
            "query.serviceName": service,
            "query.startTimeMin": _rfc3339(now - timedelta(hours=1)),
            "query.startTimeMax": _rfc3339(now + timedelta(minutes=1)),
            "query.searchDepth": str(limit),
        }
        by_id: dict[str, list[JaegerSpan]] = {}
        for span in _spans(self._get("/api/v3/traces", **query)):
            by_id.setdefault(span.trace_id, []).append(span)
        return [
            Summary(
                trace_id,
                next((span.name for span in spans if not span.parent_id), ""),
                len(spans),
                sum(span.failed for span in spans),
            )
            for trace_id, spans in by_id.items()
        ]

    def monitor(self, what: str, service: str, *, quantile: float = 0.95) -> dict[str, list[float]]:
        """What the Monitor tab shows of a service's last minutes: {operation: values}, without gaps.

        `what` is "calls" (a second), "errors" (share of calls) or "latencies" (milliseconds at the quantile).
        """
        answer = self._get(
            f"/api/metrics/{what}",
            service=service,
            groupByOperation="true",
            endTs=str(int(time.time() * 1000)),
            lookback="600000",
            step="5000",
            ratePer="60000",
            quantile=str(quantile),
        )
        found: dict[str, list[float]] = {}
        for metric in answer.get("metrics") or ():
            labels = {label["name"]: label["value"] for label in metric["labels"]}
            values = (point["gaugeValue"]["doubleValue"] for point in metric["metricPoints"])
            found[labels["operation"]] = [float(value) for value in values if value != "NaN"]
        return found

    def page(self, path: str = "/") -> str:
        """A page of Jaeger's UI."""
        with urlopen(f"{self.url}{path}", timeout=10) as response:
            return str(response.read().decode())

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        """The JSON of an answer; empty for 404, which means that there is no such trace."""
        try:
            with urlopen(f"{self.url}{path}?{urlencode(query)}", timeout=10) as response:
                found: dict[str, Any] = json.load(response)
                return found
        except HTTPError as error:
            if error.code == 404:
                return {}
            raise


@cache
def has_old_names() -> bool:
    """Whether the Jaeger that is built is older than 2.20, whose names the configuration uses."""
    command = [str(program("jaeger")), "components"]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return "name: span_metrics" not in found


def for_built(configuration: str) -> str:
    """A configuration for the Jaeger that is built, with the old names if it has only those."""
    return with_old_names(configuration) if has_old_names() else configuration


def with_old_names(configuration: str) -> str:
    """The same configuration in the words of Jaeger 2.13."""
    renamed = re.sub(r"\bspan_metrics\b", "spanmetrics", re.sub(r"\botlp_http\b", "otlphttp", configuration))
    renamed = re.sub(r"^ +series_expiration: .*\n", "", renamed, flags=re.MULTILINE)
    renamed = re.sub(r"\btopics: \[(.*)\]", r"topic: \1", renamed)
    conditions = re.sub(r"^( +)trace_conditions:\n", r"\1traces:\n\1  span:\n", renamed, flags=re.MULTILINE)
    return re.sub(r"\bspan\.(?=kind\b|attributes\[)", "", conditions)


@contextmanager
def running_jaeger(
    folder: Path,
    overlays: Iterable[str] = (),
    *,
    prometheus: int = NOWHERE,
    base_path: str = "",
    variables: Mapping[str, str] | None = None,
    ports: "Ports | None" = None,
) -> Iterator[Jaeger]:
    """Run Jaeger with config.yaml and these overlays ("badger", "jaeger-only"). `prometheus` is a port of 127.0.0.1."""
    overlays = tuple(overlays)
    ports = ports or Ports()
    environment = {
        "JAEGER_HOST": "127.0.0.1",
        "JAEGER_LISTEN_GRPC": str(ports.otlp_grpc),
        "JAEGER_LISTEN_HTTP": str(ports.otlp_http),
        "JAEGER_LISTEN_UI": str(ports.ui),
        "JAEGER_LISTEN_QUERY_GRPC": str(ports.query_grpc),
        "JAEGER_LISTEN_HEALTH": str(ports.health),
        "JAEGER_LISTEN_METRICS": str(ports.metrics),
        "JAEGER_UI_CONFIG": str(UI_CONFIG),
        "JAEGER_BADGER": str(folder / "badger"),
        "JAEGER_BASE_PATH": base_path or "/",
        "PROMETHEUS_ENDPOINT": f"http://127.0.0.1:{prometheus}",
        "COLLECTOR_SPAN_METRICS_INTERVAL": "1s",
        **(variables or {}),
    }
    files = [folder / f"{name}-{ports.ui}.yaml" for name in ("config", *overlays)]
    for name, file in zip(("config", *overlays), files, strict=True):
        file.write_text(for_built((FOLDER / f"{name}.yaml").read_text()))
    with running(
        [program("jaeger"), *(f"--config={path}" for path in files)],
        folder / f"jaeger-{ports.ui}.log",
        lambda: answers(f"http://127.0.0.1:{ports.health}/status"),
        variables=environment,
    ) as server:
        url = f"http://127.0.0.1:{ports.ui}{base_path}"
        metrics_url = f"http://127.0.0.1:{ports.metrics}/metrics"
        yield Jaeger(server, url, ports.otlp_grpc, ports.otlp_http, metrics_url)


@dataclass(frozen=True)
class Ports:
    """The ports of a Jaeger."""

    otlp_grpc: int = field(default_factory=free_port)
    otlp_http: int = field(default_factory=free_port)
    ui: int = field(default_factory=free_port)
    query_grpc: int = field(default_factory=free_port)
    health: int = field(default_factory=free_port)
    metrics: int = field(default_factory=free_port)


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _spans(answer: Mapping[str, Any]) -> list[JaegerSpan]:
    """Spans of an answer in OTLP JSON, by start."""
    found: list[tuple[int, JaegerSpan]] = []
    for group in answer.get("result", {}).get("resourceSpans", ()):
        resource = _attributes(group.get("resource", {}))
        spans = (span for scope in group.get("scopeSpans", ()) for span in scope.get("spans", ()))
        found += ((int(span["startTimeUnixNano"]), _span(span, resource)) for span in spans)
    return [span for _, span in sorted(found, key=lambda each: each[0])]


def _span(span: Mapping[str, Any], resource: dict[str, Any]) -> JaegerSpan:
    return JaegerSpan(
        name=span["name"],
        service=resource.get("service.name", ""),
        trace_id=_hex(span["traceId"], 32),
        span_id=_hex(span["spanId"], 16),
        parent_id=_hex(span.get("parentSpanId", ""), 16),
        kind=Span.SpanKind.Name(span.get("kind", 0)).removeprefix("SPAN_KIND_"),
        failed=span.get("status", {}).get("code") == Status.StatusCode.STATUS_CODE_ERROR,
        milliseconds=(int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 1e6,
        attributes=_attributes(span),
        resource=resource,
        events=[event["name"] for event in span.get("events", ())],
    )


def _attributes(of: Mapping[str, Any]) -> dict[str, Any]:
    return {each["key"]: _value(each.get("value", {})) for each in of.get("attributes", ())}


def _value(value: Mapping[str, Any]) -> Any:
    for kind, inner in value.items():
        match kind:
            case "intValue":
                return int(inner)
            case "arrayValue":
                return [_value(each) for each in inner.get("values", ())]
            case _:
                return inner
    return None


def _hex(identity: str, digits: int) -> str:
    """An id in hex, from hex or base64, depending on Jaeger's version."""
    return identity if len(identity) in {0, digits} else b64decode(identity).hex()

"""Writes docs/semconv, our names in the format of OpenTelemetry's weaver: `python -m tools.semconv [--check]`.

Attributes of spans and events are described here, once; tests compare them with the code and with live spans. Segments,
kinds of findings and metrics come from the catalogues in the code.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from otel_fastperf.event_loop.cause import BlockedBy
from otel_fastperf.findings import Kind, Severity
from otel_fastperf.metrics import CATALOGUE, Metric
from otel_fastperf.otlp_metrics.points import OF_CONVENTIONS, otlp_name, otlp_unit
from otel_fastperf.requests.time_budget import Segment

FOLDER: Final = Path(__file__).parent.parent / "docs" / "semconv"
_FORMAT: Final = "definition/2"
_STABILITY: Final = "development"
_INSTRUMENTS: Final = {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}
_CODE: Final = ("code.file.path", "code.function.name", "code.line.number")


@dataclass(frozen=True)
class Attribute:
    """An attribute: `type` is weaver's, or the values that it may have."""

    key: str
    type: str | tuple[str, ...]
    brief: str
    example: str | int | float | bool | list[str] | None = None

    def as_yaml(self) -> dict[str, Any]:
        """A member of `attributes`."""
        kind: Any = self.type
        if isinstance(kind, tuple):
            members = [{"id": value, "value": value, "brief": f"`{value}`.", "stability": _STABILITY} for value in kind]
            kind = {"members": members}
        shown = {"key": self.key, "type": kind, "brief": self.brief, "stability": _STABILITY}
        if self.example is None:
            return shown
        return shown | {"examples": [self.example]}


_KINDS: Final = tuple(kind.value for kind in Kind)

SERVER: Final = (
    *(
        Attribute(
            f"fastperf.time.{one.value}", "double", f"Seconds of the request in the segment `{one.value}`.", 0.012
        )
        for one in Segment
    ),
    Attribute("fastperf.findings", "string[]", "Kinds of the findings about the request.", ["n_plus_one"]),
    Attribute("fastperf.db.query_count", "int", "SQL statements of the request.", 12),
    Attribute("fastperf.db.time", "double", "Seconds of the request in SQL statements.", 0.034),
    Attribute("fastperf.time_to_first_byte", "double", "Seconds until the first byte of a body sent in pieces.", 0.2),
    Attribute("fastperf.kept_for", "string", "Why the trace was exported although the sampler dropped it.", "error"),
    Attribute("fastperf.kept_without", "int", "Spans that such a trace lost because of their number or size.", 3),
    Attribute("fastperf.websocket.close_code", "int", "The code with which a WebSocket connection ended.", 1000),
)
MESSAGE: Final = (
    Attribute("fastperf.websocket.message.type", ("binary", "text"), "Whether the message is text."),
    Attribute("fastperf.websocket.message.size", "int", "Size of the message in bytes.", 512),
)
BLOCKED: Final = (
    Attribute("fastperf.blocked.cause", tuple(one.value for one in BlockedBy), "Why the event loop stood still."),
    Attribute("fastperf.blocked.seconds", "double", "For how long it did.", 0.4),
    Attribute("fastperf.blocked.frames", "string[]", "The lines that ran, the innermost first.", ["app.py:12 in pay"]),
    Attribute("fastperf.blocked.waiting_requests", "int", "Requests that waited meanwhile.", 5),
)
LINK: Final = Attribute("fastperf.link", "string", "What a link to another span means.", "event loop blocked")
PLAN: Final = (
    Attribute("fastperf.plan.hash", "string", "Identifies the plan, whatever its figures.", "9f86d081884c7d65"),
    Attribute("fastperf.plan.text", "string", "The plan as the database shows it.", "SCAN visits"),
    Attribute("fastperf.plan.remark", "string", "What is striking about the plan.", "reads the whole table visits"),
    Attribute("fastperf.plan.top", "string", "The outermost step of the plan.", "SCAN"),
    Attribute("fastperf.plan.scans", "string[]", "Tables that are read whole.", ["visits (80,000 rows)"]),
    Attribute("fastperf.plan.cost", "double", "The planner's estimate of the cost.", 1204.5),
)
FINDING: Final = (
    Attribute("fastperf.finding.kind", "string", "The kind; your own detectors have others than ours.", "n_plus_one"),
    Attribute("fastperf.finding.severity", tuple(one.value for one in Severity), "How serious it is."),
    Attribute("fastperf.finding.subject", "string", "What it is about, such as a statement or a pool.", "SELECT items"),
    Attribute("fastperf.finding.message", "string", "What was found.", "'SELECT items' ran 50 times."),
    Attribute("fastperf.finding.remedy", "string", "What to do about it.", "Load them in one statement."),
    Attribute("fastperf.evidence", "template[any]", "What was measured, by name: it depends on the kind."),
)
AWAITED: Final = (
    Attribute("fastperf.await.activity", "string", "Whether it was awaited or computed in a thread.", "await"),
    Attribute("fastperf.await.library", "string", "The library that the app called.", "httpx"),
    Attribute("fastperf.await.function", "string", "Its function.", "AsyncClient.get"),
    Attribute("fastperf.await.seconds", "double", "For how long, estimated from samples.", 0.3),
)
ATTRIBUTES: Final = (*SERVER, *MESSAGE, *BLOCKED, LINK, *PLAN, *FINDING, *AWAITED)


def files() -> dict[str, str]:
    """The content of the files by name."""
    manifest = {
        "name": "otel-fastperf",
        "description": "What otel-fastperf adds to OpenTelemetry's conventions.",
        "schema_url": "https://otel-fastperf.github.io/schemas/0.1.0",
        "dependencies": [
            {
                "schema_url": "https://opentelemetry.io/schemas/1.40.0",
                "registry_path": "https://github.com/open-telemetry/semantic-conventions@v1.40.0[model]",
            }
        ],
    }
    return {
        "manifest.yaml": _written(manifest),
        "attributes.yaml": _file(attributes=[one.as_yaml() for one in (*ATTRIBUTES, *_labels())]),
        "spans.yaml": _file(spans=list(_spans())),
        "events.yaml": _file(events=list(_events())),
        "metrics.yaml": _file(metrics=[_metric(one) for one in _own_metrics()]),
    }


def _own_metrics() -> tuple[Metric, ...]:
    return tuple(metric for metric in CATALOGUE if metric.source == "fastperf")


def _labels() -> Iterator[Attribute]:
    """Labels of our metrics that no convention has, and that are names of attributes by OTLP."""
    named: dict[str, list[str]] = {}
    for metric in _own_metrics():
        for label in metric.labels:
            if label not in OF_CONVENTIONS:
                named.setdefault(label, []).append(f"`{_metric_name(metric)}`")
    for label, metrics in sorted(named.items()):
        yield Attribute(label, "string", f"Of {', '.join(metrics)}.", "n_plus_one" if label == "kind" else label)


def _metric_name(metric: Metric) -> str:
    return otlp_name(metric.name.removesuffix("_total"))


def _metric(metric: Metric) -> dict[str, Any]:
    return {
        "name": _metric_name(metric),
        "brief": metric.help,
        "instrument": _INSTRUMENTS[metric.kind],
        "unit": otlp_unit(metric.name.removesuffix("_total")),
        "stability": _STABILITY,
        "attributes": _refs(*(OF_CONVENTIONS.get(label, label) for label in metric.labels)),
    }


def _refs(*keys: str) -> list[dict[str, str]]:
    return [{"ref": key, "requirement_level": "recommended"} for key in keys]


def _keys(attributes: Sequence[Attribute]) -> tuple[str, ...]:
    return tuple(one.key for one in attributes)


def _spans() -> Iterator[dict[str, Any]]:
    yield _span("fastperf.request", "server", "A request that the app served.", "{method} {route}", _keys(SERVER))
    yield _span(
        *("fastperf.websocket.message", "internal", "A message of a WebSocket connection.", "websocket.receive"),
        _keys(MESSAGE),
    )
    yield _span(
        *("fastperf.event_loop_blocked", "internal", "Code that held the event loop.", "event loop blocked"),
        (*_keys(BLOCKED), *_CODE),
    )
    yield _span(
        *("fastperf.explain", "internal", "EXPLAIN of a slow statement.", "EXPLAIN {db.query.summary}"),
        ("fastperf.plan.hash", "db.system.name", "db.query.summary"),
    )


def _span(kind: str, span_kind: str, brief: str, name: str, keys: Sequence[str]) -> dict[str, Any]:
    return {
        "type": kind,
        "kind": span_kind,
        "brief": brief,
        "stability": _STABILITY,
        "name": {"note": name},
        "attributes": _refs(*keys),
    }


def _events() -> Iterator[dict[str, Any]]:
    for kind in _KINDS:
        brief = f"The finding `{kind}`: docs/findings/{kind}.md."
        yield _event(f"fastperf.{kind}", brief, (*_keys(FINDING), *_CODE))
    yield _event("fastperf.await", "What a slow request awaited.", (*_keys(AWAITED), *_CODE))
    yield _event("fastperf.explain", "The plan of a slow statement.", _keys(PLAN))


def _event(name: str, brief: str, keys: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "brief": brief, "stability": _STABILITY, "attributes": _refs(*keys)}


def _file(**content: Any) -> str:
    return _written({"file_format": _FORMAT, **content})


def _written(content: Any) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    return f"# written by `python -m tools.semconv`\n{text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files that differ; with `--check`, print their names and return 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.semconv", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    check = parser.parse_args(arguments).check
    stale = {
        name: text
        for name, text in files().items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text() != text
    }
    for name, text in stale.items():
        if check:
            print(f"docs/semconv/{name} is not up to date. Remedy: run `python -m tools.semconv`.", file=sys.stderr)
        else:
            FOLDER.mkdir(parents=True, exist_ok=True)
            (FOLDER / name).write_text(text)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())

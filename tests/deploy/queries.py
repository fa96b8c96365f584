"""The queries of docs/queries.md, and the table of the collector's ClickHouse exporter for them."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.deploy.servers import ROOT
from tests.otlp import ReceivedSpan

Language = Literal["promql", "traceql", "sql"]


@dataclass(frozen=True)
class Asked:
    """A question, and the query that answers it."""

    question: str
    language: Language
    text: str


def _asked() -> Iterator[Asked]:
    question = ""
    page = (ROOT / "docs" / "queries.md").read_text()
    for heading, language, text in re.findall(r"^### ([^\n]+)$|^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        question = heading or question
        if language:
            yield Asked(question, language, text.strip())


QUERIES: Final = tuple(_asked())


def of(language: Language) -> dict[str, str]:
    """`{question: query}` of a language; the second query of a question has its number."""
    found: dict[str, str] = {}
    for one in QUERIES:
        if one.language == language:
            found[f"{one.question} 2" if one.question in found else one.question] = one.text
    return found


#: the columns of `otel_traces`: exporter/clickhouseexporter of opentelemetry-collector-contrib 0.159; engine and
#: indexes do not matter for what a query returns
TABLE: Final = """
CREATE TABLE otel_traces (
    Timestamp DateTime64(9), TraceId String, SpanId String, ParentSpanId String, TraceState String,
    SpanName LowCardinality(String), SpanKind LowCardinality(String), ServiceName LowCardinality(String),
    ResourceAttributes Map(LowCardinality(String), String), ScopeName String, ScopeVersion String,
    SpanAttributes Map(LowCardinality(String), String), Duration UInt64,
    StatusCode LowCardinality(String), StatusMessage String,
    Events Nested (
        Timestamp DateTime64(9), Name LowCardinality(String), Attributes Map(LowCardinality(String), String)
    ),
    Links Nested (
        TraceId String, SpanId String, TraceState String, Attributes Map(LowCardinality(String), String)
    )
) ENGINE = MergeTree ORDER BY (ServiceName, SpanName, Timestamp)
"""


def rows(spans: Iterable[ReceivedSpan]) -> str:
    """The spans as rows of the table, in ClickHouse's format JSONEachRow."""
    return "".join(json.dumps(_row(span)) + "\n" for span in spans)


def _row(span: ReceivedSpan) -> dict[str, Any]:
    return {
        "Timestamp": f"{span.start // 10**9}.{span.start % 10**9:09}",
        "TraceId": span.trace_id,
        "SpanId": span.span_id,
        "ParentSpanId": span.parent_id,
        "SpanName": span.name,
        "SpanKind": span.kind.capitalize(),
        "ServiceName": span.resource["service.name"],
        "ResourceAttributes": _texts(span.resource),
        "ScopeName": span.scope,
        "ScopeVersion": span.scope_version,
        "SpanAttributes": _texts(span.attributes),
        "Duration": span.end - span.start,
        "StatusCode": span.status.capitalize(),
        "StatusMessage": span.status_message,
        "Events.Timestamp": [span.end / 1e9 for _ in span.events],
        "Events.Name": [event.name for event in span.events],
        "Events.Attributes": [_texts(event.attributes) for event in span.events],
    }


def _texts(attributes: dict[str, Any]) -> dict[str, str]:
    """Values as the exporter writes them: lists and booleans are JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for name, value in attributes.items()
    }

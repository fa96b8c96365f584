"""A report as text for a terminal, at most 100 columns: the verdict, the findings with their remedies, the routes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from otel_fastperf.findings import Evidence, Finding, Severity
from otel_fastperf.internals.text_safety import printable
from otel_fastperf.report.formatting import (
    GAP,
    TIMES,
    Paint,
    columns,
    number,
    quantile,
    seconds,
    shorten,
    width,
    wrapped,
)
from otel_fastperf.report.labels import (
    PLAIN,
    REMARK,
    awaited_lines,
    consequences,
    evidence,
    gauges,
    headline,
    latency,
    moment,
    place,
    subline,
    without_spans,
)
from otel_fastperf.report.model import Report, RouteVerdict
from otel_fastperf.report.rows import HEADS, cells, stands_out
from otel_fastperf.requests.time_budget import Segment

COLUMNS: Final = 100
#: maximum number of routes in the verdict
MOST_ROUTES: Final = 5
#: characters; only JSON and HTML show longer evidence
LONGEST_EVIDENCE: Final = 40
#: endings of evidence that is for machines, or has its own line
_NOT_HERE: Final = ("fingerprint", "hash", REMARK)
#: maximum number of rows in the table; JSON has all
MOST_ROWS: Final = 50
_INDENT: Final = "  "
_REMEDY: Final = "Remedy: "
_CONSEQUENCE: Final = "Hence: "
_NAME: Final = 14
_BAR: Final = 16
_WORKER_COLUMNS: Final = (-11, 8, 10, 6, 8, 8, 7, 9)
_ROUTE_COLUMNS: Final = (-29, 8, 6, 7, 7, 7, 6, -_BAR)

#: work is shaded; a wait is a letter or a sign. The first letter of a part of the app: it awaits something
_CHARACTERS: Final[Mapping[str, str]] = {
    Segment.DB: "█",
    Segment.COMMIT: "■",
    Segment.HANDLER: "▓",
    Segment.HANDLER_AWAIT: "e",
    Segment.DEPENDENCIES: "▒",
    Segment.DEPENDENCIES_AWAIT: "d",
    Segment.SERIALIZATION: "░",
    Segment.MIDDLEWARE: "=",
    Segment.MIDDLEWARE_AWAIT: "m",
    Segment.SEND: ">",
    Segment.HTTP_CLIENT: "h",
    Segment.RPC: "r",
    Segment.CACHE: "k",
    Segment.MESSAGING: "q",
    Segment.POOL_WAIT: "c",
    Segment.THREADPOOL_WAIT: "t",
    Segment.LOOP_WAIT: "!",
    Segment.GC: "g",
}
_OTHER: Final = "?"


def to_text(report: Report, *, colour: bool) -> str:
    """Lines of at most 100 columns, without a final line break; `colour` adds a terminal's colours."""
    paint = Paint(colour=colour)
    parts = (_verdict, _findings, _routes, _workers, _end)
    return _joined(*(part(report, paint) for part in parts))


def verdict(report: Report, *, colour: bool) -> str:
    """The beginning of `to_text`: the verdict and the findings, without the tables."""
    paint = Paint(colour=colour)
    return _joined(_verdict(report, paint), _findings(report, paint))


def _joined(*sections: Iterator[str]) -> str:
    return "\n\n".join("\n".join(lines) for lines in map(list, sections) if lines)


def _verdict(report: Report, paint: Paint) -> Iterator[str]:
    yield paint.bold(shorten(printable(headline(report)), COLUMNS))
    yield paint.dim(subline(report))
    yield ""
    if report.advice:
        yield from (paint.bold(line) for line in _indented(report.advice))
    yield from _indented(report.worker.sentence)
    if report.uninstrumented:
        yield from _indented(without_spans(report))
    if not report.routes:
        yield from _indented("No request has been measured yet.")
        return
    yield ""
    rows = [(_name(route), seconds(route.seconds)) for route in report.routes[:MOST_ROUTES]]
    heads = columns(rows, (-min(40, max(width(name) for name, _ in rows)), 7))
    for head, route in zip(heads, report.routes, strict=False):
        room = COLUMNS - width(head) - 2 * len(GAP)
        first, *rest = wrapped(printable(route.sentence), room) or [""]
        yield f"{_INDENT}{head}{GAP}{first}".rstrip()
        lines = [*rest, *(line for text in awaited_lines(route) for line in wrapped(printable(text), room))]
        yield from (f"{' ' * (COLUMNS - room)}{line}" for line in lines)


def _name(route: RouteVerdict) -> str:
    return printable(f"{route.method} {route.route}")


def _indented(text: str) -> Iterator[str]:
    return (_INDENT + line for line in wrapped(printable(text), COLUMNS - len(_INDENT)))


def _findings(report: Report, paint: Paint) -> Iterator[str]:
    for count, finding in enumerate(report.findings):
        if count:
            yield ""
        yield from _finding(report, finding, paint)


def _finding(report: Report, finding: Finding, paint: Paint) -> Iterator[str]:
    severity = finding.severity.upper()
    head = f"{finding.kind} in {place(finding)}" if finding.route else f"{finding.kind} {place(finding)}"
    cost = f", {seconds(finding.seconds)} in all" if finding.seconds else ""
    seen = f"{TIMES}{number(finding.count)}{cost}"
    head = shorten(printable(head), COLUMNS - len(severity) - len(seen) - 2 * len(GAP))
    yield f"{_severity(finding, paint)(severity)}{GAP}{paint.bold(head)}{GAP}{paint.dim(seen)}"
    if finding.call_site is not None:
        yield _INDENT + paint.cyan(shorten(printable(f"at {finding.call_site}"), COLUMNS - len(_INDENT)))
    yield from _indented(finding.message)
    remark = finding.evidence.get(REMARK)
    if isinstance(remark, str) and remark != finding.remedy:  # the remedy may be the remark
        yield from _indented(remark)
    yield from _labelled(_REMEDY, finding.remedy, paint.green)
    for text in consequences(report, finding):
        yield from _labelled(_CONSEQUENCE, text, paint.yellow)
    facts = _facts(finding.evidence)
    if facts:
        yield _INDENT + paint.dim(shorten(facts, COLUMNS - len(_INDENT)))
    if finding.trace_ids:
        yield _INDENT + paint.dim(shorten(printable(f"trace {finding.trace_ids[-1]}"), COLUMNS - len(_INDENT)))


def _labelled(label: str, text: str, colour: Callable[[str], str]) -> Iterator[str]:
    first, *rest = wrapped(printable(text), COLUMNS - len(_INDENT) - len(label)) or [""]
    yield f"{_INDENT}{colour(label)}{first}"
    yield from (f"{_INDENT}{' ' * len(label)}{line}" for line in rest)


def _severity(finding: Finding, paint: Paint) -> Callable[[str], str]:
    match finding.severity:
        case Severity.CRITICAL:
            return paint.red
        case Severity.WARNING:
            return paint.yellow
        case Severity.INFO:
            return paint.cyan


def _facts(given: Evidence) -> str:
    """The short evidence for people, in one line."""
    facts = ((name, evidence(name, value)) for name, value in given.items() if not name.endswith(_NOT_HERE))
    short = (f"{name} {fact}" for name, fact in facts if fact and "\n" not in fact and len(fact) <= LONGEST_EVIDENCE)
    return printable("; ".join(short))


def _routes(report: Report, paint: Paint) -> Iterator[str]:
    if not report.routes:
        return
    header = ("Routes", "requests", "errors", "p50", "p95", "p99", "SQL", "time")
    shown = report.routes[:MOST_ROWS]
    rows = [_row(route) for route in shown]
    title, *lines = columns([header, *rows], _ROUTE_COLUMNS)
    yield paint.bold(title)
    yield from (paint.red(line) if route.errors else line for line, route in zip(lines, shown, strict=True))
    if len(report.routes) > len(shown):
        yield f"… and {len(report.routes) - len(shown)} more in the JSON"
    yield paint.dim("Most time first. SQL: mean number of statements per request. time: where it goes,")
    yield from _legend(report, paint)


def _row(route: RouteVerdict) -> tuple[str, ...]:
    quantiles = (quantile(latency(value, route.latency_bounds)) for value in (route.p50, route.p95, route.p99))
    errors = number(route.errors) if route.errors else ""
    return (_name(route), number(route.requests), errors, *quantiles, f"{route.statements:.1f}", _bar(route.segments))


def _bar(segments: Mapping[str, float]) -> str:
    """One character per sixteenth of the time, rounded so that they fill the bar."""
    total, done, bar = sum(segments.values()), 0.0, ""
    for segment, spent in segments.items():
        done += spent
        bar += _CHARACTERS.get(segment, _OTHER) * (round(_BAR * done / total) - len(bar))
    return bar


def _legend(report: Report, paint: Paint) -> Iterator[str]:
    bars = {character for route in report.routes[:MOST_ROWS] for character in _bar(route.segments)}
    entries = [f"{character} {PLAIN[segment]}" for segment, character in _CHARACTERS.items() if character in bars]
    if _OTHER in bars:
        entries.append(f"{_OTHER} other")
    # keep the words of one entry together
    text = " ".join(entry.replace(" ", "\N{NO-BREAK SPACE}") for entry in entries)
    for line in wrapped(text, COLUMNS):
        yield paint.dim(line.replace(" ", GAP).replace("\N{NO-BREAK SPACE}", " "))


def _workers(report: Report, paint: Paint) -> Iterator[str]:
    if not report.workers:
        return
    title, *lines = columns([HEADS, *map(cells, report.workers)], _WORKER_COLUMNS)
    yield paint.bold(title)
    yield from (paint.red(line) if stands_out(each) else line for line, each in zip(lines, report.workers, strict=True))


def _end(report: Report, paint: Paint) -> Iterator[str]:
    for name, value in gauges(report.worker):
        yield from _entry(name, value, paint)
    if report.troubles:
        failed = ", ".join(f"{number(count)} {TIMES} {what}" for what, count in report.troubles.items())
        yield from _entry("own failures", failed, paint)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items() if version)
    made = f"Made {moment(report.made_at)}" + (f" by {versions}" if versions else "")
    yield from (paint.dim(line) for line in wrapped(printable(made), COLUMNS))


def _entry(name: str, value: str, paint: Paint) -> Iterator[str]:
    first, *rest = wrapped(printable(value), COLUMNS - _NAME - len(GAP))
    yield f"{paint.bold(f'{name:<{_NAME}}')}{GAP}{first}"
    yield from (f"{' ' * _NAME}{GAP}{line}" for line in rest)

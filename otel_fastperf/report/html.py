"""A report as one HTML file: no script, no other file, no address; foreign text is escaped."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Final

from otel_fastperf.findings import Finding, Severity
from otel_fastperf.report.formatting import TIMES, number, quantile, seconds, size
from otel_fastperf.report.labels import (
    PLAIN,
    REMARK,
    awaited_lines,
    consequences,
    evidence,
    headline,
    latency,
    moment,
    place,
    rate,
    subline,
    without_spans,
)
from otel_fastperf.report.model import Report, RouteVerdict, WorkerVerdict
from otel_fastperf.report.rows import HEADS, cells, silence, stands_out
from otel_fastperf.report.svg import budget_bar, gauge, latency_axis, latency_plot, plain, safe, segment_class

#: maximum number of routes; JSON has all
MOST_ROUTES: Final = 50
#: the rest is folded
MOST_UNFOLDED: Final = 10
#: characters; longer evidence becomes a block
_BLOCK: Final = 60
#: quantiles, and the colour of each
_MARKS: Final = (("p50", "good"), ("p95", "warning"), ("p99", "critical"))
#: shares from which a gauge is yellow and red
_LEVELS: Final = (0.6, 0.85)
_MUCH_GC: Final = (0.02, 0.05)

_UNEXPLAINED: Final = '<p class="note">Some routes are slow, and for none of the known reasons: see above.</p>'

#: nothing may be loaded or run, even if a name contained HTML
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def to_html(report: Report) -> str:
    """The page."""
    body = "\n".join(_sections(report))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(headline(report))}</title>\n<style>\n{_style()}{_colours()}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


@cache
def _style() -> str:
    return resources.files("otel_fastperf.report").joinpath("style.css").read_text("utf-8")


def _colours() -> str:
    """The colours of the segments, for bars and legend."""
    names = [*PLAIN, "other"]
    return "\n".join(f".s-{name} {{ fill: var(--{name}); background: var(--{name}); }}" for name in names)


def _sections(report: Report) -> Iterator[str]:
    yield f'<h1>{safe(headline(report))}</h1>\n<p class="soft">{safe(subline(report))}</p>'
    yield _verdict(report)
    yield f'<dl class="tiles">{"".join(_tiles(report.worker))}</dl>'
    if report.workers:
        yield _workers(report.workers)
    if report.routes:
        yield _routes(report)
    yield from _findings(report)
    if report.routes:
        yield _latencies(report.routes)
    yield _footer(report)


def _verdict(report: Report) -> str:
    worst = max((finding.severity for finding in report.findings), key=lambda each: each.rank, default="")
    first = f"<li><b>{safe(report.advice)}</b></li>" if report.advice else ""
    points = first + "".join(
        f"<li>{safe(part[:1].upper() + part[1:])}</li>" for part in report.worker.sentence.split("; ") if part
    )
    if report.uninstrumented:
        points += f"<li>{safe(without_spans(report))}</li>"
    none = "" if report.routes else "<li>No request has been measured yet.</li>"
    return f'<section class="card verdict {worst}" aria-label="Verdict"><ul>{points}{none}</ul></section>'


def _tiles(worker: WorkerVerdict) -> Iterator[str]:
    """The worker's known figures."""
    yield _tile("Requests", f"{rate(worker.requests_per_second)}/s", "", "")
    yield _tile("SQL statements", f"{rate(worker.statements_per_second)}/s", "", "")
    yield from _loop_tiles(worker)
    if worker.threads_limit is not None:
        yield _threads_tile(worker.threads_limit, worker.threads_borrowed or 0, worker.threads_waiting or 0)
    if worker.resident_bytes is not None:
        yield _memory_tile(worker.resident_bytes, worker)
    if worker.gc_share is not None:
        yield _gauge_tile("Garbage collector", worker.gc_share, "of the time, the process is stopped", _MUCH_GC)


def _loop_tiles(worker: WorkerVerdict) -> Iterator[str]:
    if worker.loop_utilization is not None:
        yield _gauge_tile("Event loop", worker.loop_utilization, "busy in the last second")
    if worker.loop_lag_p50 is not None and worker.loop_lag_p99 is not None:
        more = f"1 timer in 100 is later; median {seconds(worker.loop_lag_p50)}"
        yield _tile("Event loop lag", seconds(worker.loop_lag_p99), "", more)
    if worker.blocked_seconds:
        causes = ", ".join(f"{cause} {seconds(spent)}" for cause, spent in worker.blocked_seconds.items())
        yield _tile("Event loop blocked", seconds(sum(worker.blocked_seconds.values())), "", causes)


def _threads_tile(limit: int, borrowed: int, waiting: int) -> str:
    share = borrowed / limit if limit > 0 else 0.0
    plot = gauge(f"{borrowed} of {limit} threads in use", [(_level(share), share)])
    return _tile("Threads", f"{number(borrowed)} of {number(limit)}", plot, f"in use; {number(waiting)} requests wait")


def _memory_tile(resident: int, worker: WorkerVerdict) -> str:
    plot = ""
    more = ["resident"]
    if worker.unique_bytes is not None:
        more.append(f"{size(worker.unique_bytes)} unshared")
    if worker.headroom_bytes is not None:
        share = resident / max(resident + worker.headroom_bytes, 1)
        plot = gauge(f"{share:.0%} of the limit", [(_level(share), share)])
        more.append(f"{size(worker.headroom_bytes)} left")
    return _tile("Memory", size(resident), plot, ", ".join(more))


def _gauge_tile(name: str, share: float, more: str, levels: tuple[float, float] = _LEVELS) -> str:
    digits = 0 if share >= 0.1 else 1  # noqa: PLR2004 - three characters
    figure = f"{share:.{digits}%}"
    return _tile(name, figure, gauge(f"{name}: {figure} {more}", [(_level(share, levels), share)]), more)


def _level(share: float, levels: tuple[float, float] = _LEVELS) -> str:
    high, full = levels
    return "full" if share >= full else "high" if share >= high else "ok"


def _tile(name: str, value: str, plot: str, more: str) -> str:
    below = f'<dd class="more">{safe(more)}</dd>' if more else ""
    bar = f"<dd>{plot}</dd>" if plot else ""
    return f'<div class="card tile"><dt>{safe(name)}</dt><dd class="value">{safe(value)}</dd>{bar}{below}</div>'


def _workers(workers: Sequence[WorkerVerdict]) -> str:
    first, *others = HEADS
    head = f'<th scope="col">{first}</th>' + "".join(f'<th scope="col" class="n">{name}</th>' for name in others)
    rows = "".join(map(_worker, workers))
    return f'<section>\n<h2 id="workers">Workers</h2>\n<div class="card scroll">{_rows(head, [rows])}</div>\n</section>'


def _worker(worker: WorkerVerdict) -> str:
    name, *others = cells(worker)
    silent = f'<div class="said">{safe(silence(worker))}</div>' if worker.silent_seconds is not None else ""
    marked = " bad" if stands_out(worker) else ""
    figures = "".join(f'<td class="n">{safe(cell)}</td>' for cell in others)
    return f'<tr><th scope="row" class="name{marked}">{safe(name)}{silent}</th>{figures}</tr>\n'


def _routes(report: Report) -> str:
    total = sum(route.seconds for route in report.routes)
    rows = [_route(route, report.findings, total) for route in report.routes[:MOST_ROUTES]]
    head = (
        '<th scope="col">Route</th><th scope="col" class="n">Requests</th><th scope="col" class="n">Errors</th>'
        '<th scope="col" class="n">Total time</th><th scope="col" class="n">Share</th>'
        '<th scope="col" class="bar">Where it goes</th>'
    )
    return (
        '<section>\n<h2 id="routes">Where the time goes</h2>\n'
        '<p class="note">Most time first. Cool colours are work, pale ones what it awaits, warm ones are waiting.</p>\n'
        f"{_legend(report.routes[:MOST_ROUTES])}\n{_table(head, rows, len(report.routes))}\n</section>"
    )


def _table(head: str, rows: Sequence[str], number_of_routes: int) -> str:
    """The first rows, the others folded, and how many are omitted."""
    first, others = rows[:MOST_UNFOLDED], rows[MOST_UNFOLDED:]
    folded = ""
    if others:
        summary = f"<summary>{number(len(others))} more routes</summary>"
        folded = f"<details>{summary}{_rows(head, others)}</details>"
    left_out = number_of_routes - len(rows)
    rest = f'<p class="note">… and {number(left_out)} more in the JSON.</p>' if left_out else ""
    return f'<div class="card scroll">{_rows(head, first)}{folded}</div>{rest}'


def _rows(head: str, rows: Sequence[str]) -> str:
    return f'<table class="routes"><thead><tr>{head}</tr></thead>\n<tbody>{"".join(rows)}</tbody></table>'


def _legend(routes: Sequence[RouteVerdict]) -> str:
    there = {segment for route in routes for segment in route.segments}
    known = [segment for segment in PLAIN if segment in there]
    other = sorted(there - set(PLAIN))
    items = (
        f'<li><i class="s-{segment_class(segment)}"></i>{safe(plain(segment))}</li>' for segment in (*known, *other)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _route(route: RouteVerdict, findings: Sequence[Finding], total: float) -> str:
    share = route.seconds / total if total else 0.0
    chips = "".join(
        f'<a class="chip {finding.severity.value}" href="#finding-{count}">{safe(finding.kind)}</a>'
        for count, finding in enumerate(findings)
        if (finding.method, finding.route) == (route.method, route.route)
    )
    said = "".join(f'<div class="said">{safe(line)}</div>' for line in (route.sentence, *awaited_lines(route)))
    return (
        f'<tr><th scope="row">{_name(route)}<div class="chips">{chips}</div></th>'
        f'<td class="n">{number(route.requests)}</td>'
        f'<td class="n{" bad" if route.errors else ""}">{number(route.errors)}</td>'
        f'<td class="n">{seconds(route.seconds)}</td><td class="n">{_share(share)}</td>'
        f'<td class="bar">{budget_bar(route.segments)}{said}</td></tr>\n'
    )


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "< 1%"  # noqa: PLR2004 - it would be rounded to 0%


def _name(route: RouteVerdict) -> str:
    return f'<span class="method">{safe(route.method)}</span> {safe(route.route)}'


def _latencies(routes: Sequence[RouteVerdict]) -> str:
    marks = "".join(f'<li class="round"><i style="background:var(--{css})"></i>{name}</li>' for name, css in _MARKS)
    head = (
        f'<th scope="col">Route</th><th scope="col" class="plot">{latency_axis()}</th>'
        '<th scope="col" class="n">p50</th><th scope="col" class="n">p95</th><th scope="col" class="n">p99</th>'
        '<th scope="col" class="n">SQL</th>'
    )
    table = _table(head, [_latency(route) for route in routes[:MOST_ROUTES]], len(routes))
    return (
        '<section>\n<h2 id="latency">How long requests take</h2>\n'
        '<p class="note">Half of them take no longer than p50, 1 in 20 longer than p95, 1 in 100 longer than p99.'
        " SQL is the mean number of statements per request. The scale is logarithmic.</p>\n"
        f'<ul class="legend">{marks}</ul>\n{table}\n</section>'
    )


def _latency(route: RouteVerdict) -> str:
    quantiles = (quantile(latency(value, route.latency_bounds)) for value in (route.p50, route.p95, route.p99))
    cells = "".join(f'<td class="n">{safe(words)}</td>' for words in quantiles)
    return (
        f'<tr><th scope="row">{_name(route)}</th><td class="plot">{latency_plot(route)}</td>{cells}'
        f'<td class="n">{route.statements:.1f}</td></tr>\n'
    )


def _findings(report: Report) -> Iterator[str]:
    yield '<section>\n<h2 id="findings">What was found</h2>'
    if not report.findings:
        unexplained = any(route.unexplained for route in report.routes)
        yield '<p class="note">No bottleneck was seen.</p>' if not unexplained else _UNEXPLAINED
    else:
        yield '<p class="note">What saves most time over all requests first, each with its remedy.</p>'
    for count, finding in enumerate(report.findings):
        yield _finding(report, count, finding)
    yield "</section>"


def _finding(report: Report, count: int, finding: Finding) -> str:
    severity = finding.severity.value
    site = f'<p class="site">{safe(str(finding.call_site))}</p>' if finding.call_site is not None else ""
    remedy = f'<p class="remedy"><b>Remedy:</b> {_prose(finding.remedy)}</p>' if finding.remedy else ""
    said = finding.evidence.get(REMARK)
    # the remedy may be the remark
    remark = f'<p class="message">{_prose(said)}</p>' if isinstance(said, str) and said != finding.remedy else ""
    hence = "".join(f'<p class="message"><b>Hence:</b> {_prose(text)}</p>' for text in consequences(report, finding))
    return (
        f'<article class="card finding {severity}" id="finding-{count}" aria-labelledby="finding-{count}-name">'
        f'<header><span class="chip {severity}">{severity}</span>'
        f'<h3 id="finding-{count}-name">{safe(finding.kind)} <span class="soft">{_where(finding)}</span></h3>'
        f'<span class="seen">{_seen(finding)}</span></header>'
        f'{site}<p class="message">{_prose(finding.message)}</p>{remark}{remedy}{hence}{_evidence(finding)}</article>'
    )


def _seen(finding: Finding) -> str:
    times = "once" if finding.count == 1 else f"{number(finding.count)} times"
    return f"seen {times}" + (f", {seconds(finding.seconds)} in all" if finding.seconds else "")


def _prose(text: str) -> str:
    """Escape the text and mark text in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", safe(text))


def _where(finding: Finding) -> str:
    return f"in {safe(place(finding))}" if finding.route else safe(place(finding))


def _evidence(finding: Finding) -> str:
    facts = [("about", finding.subject)]
    for name, value in finding.evidence.items():
        if name != REMARK:
            facts.append((name, "\n".join(value) if isinstance(value, tuple) else evidence(name, value)))
    facts += [("first seen", moment(finding.first_seen)), ("last seen", moment(finding.last_seen))]
    facts.append(("traces", "\n".join(finding.trace_ids)))
    rows = "".join(f'<tr><th scope="row">{safe(name)}</th><td>{_fact(fact)}</td></tr>' for name, fact in facts if fact)
    unfolded = " open" if finding.severity is Severity.CRITICAL else ""
    return (
        f'<details{unfolded}><summary>Evidence</summary><table class="evidence"><tbody>{rows}</tbody></table></details>'
    )


def _fact(fact: str) -> str:
    shown = safe(fact, keep="\n")
    return f"<pre>{shown}</pre>" if len(fact) > _BLOCK or "\n" in fact else shown


def _footer(report: Report) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items() if version)
    made = f"Made {moment(report.made_at)}" + (f" by {versions}" if versions else "")
    failed = ", ".join(f"{number(count)} {TIMES} {what}" for what, count in report.troubles.items())
    trouble = f'<p class="trouble">Telemetry\'s own failures: {safe(failed)}</p>' if failed else ""
    return f"<footer>{trouble}<p>{safe(made)}</p></footer>"

"""A trace as a waterfall in the terminal: each span with its start and duration, repeats folded into one line.

::

    GET /slow/n-plus-one          ████████████████████████████████████    62 ms
      SELECT orders               ██                                     3.1 ms
      SELECT items x50              ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒    46 ms
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from demo.span_route import SpanRecord
from otel_fastperf.report import formatting as words
from otel_fastperf.report.formatting import Paint

NAME: Final = 40
BAR: Final = 44
#: number of equal consecutive spans from which they are folded into one line
FOLD: Final = 3
#: most lines of one trace
MOST_LINES: Final = 10


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's span and all spans below it."""

    root: SpanRecord
    children: dict[str, list[SpanRecord]]

    @property
    def statements(self) -> int:
        """Number of SQL statements."""
        return sum(span.statement for spans in self.children.values() for span in spans)


def traces(spans: Iterable[SpanRecord]) -> list[Trace]:
    """Group spans into the traces of requests, in the order in which the requests ended."""
    by_trace: dict[str, list[SpanRecord]] = defaultdict(list)
    for span in spans:
        by_trace[span.trace_id].append(span)
    return [_trace(root, members) for members in by_trace.values() for root in members if root.kind == "SERVER"]


def _trace(root: SpanRecord, members: Iterable[SpanRecord]) -> Trace:
    children: dict[str, list[SpanRecord]] = defaultdict(list)
    for span in sorted(members, key=lambda span: span.start):
        children[span.parent_id].append(span)
    return Trace(root, dict(children))


def slowest(found: Iterable[Trace], most: int) -> list[Trace]:
    """Return the slowest trace of each route, slowest first."""
    by_route: dict[str, Trace] = {}
    for trace in found:
        best = by_route.get(trace.root.name)
        if best is None or trace.root.seconds > best.root.seconds:
            by_route[trace.root.name] = trace
    return sorted(by_route.values(), key=lambda trace: trace.root.seconds, reverse=True)[:most]


@dataclass(frozen=True, slots=True)
class _Line:
    depth: int
    spans: Sequence[SpanRecord]

    @property
    def name(self) -> str:
        repeats = f" {words.TIMES}{len(self.spans)}" if len(self.spans) > 1 else ""
        room = NAME - 2 * self.depth - len(repeats)
        return "  " * self.depth + words.shorten(self.spans[0].name, room) + repeats

    @property
    def seconds(self) -> float:
        """Sum of its spans; the time between them does not count."""
        return sum(span.seconds for span in self.spans)

    @property
    def error(self) -> str:
        return next((span.error.rpartition(".")[2] for span in self.spans if span.error), "")


def waterfall(trace: Trace, paint: Paint) -> list[str]:
    """Return the lines of the trace, the request's own first."""
    lines = list(_lines(trace, trace.root, 0))
    end = max(span.end for line in lines for span in line.spans)
    scale = BAR / max(end - trace.root.start, 1)
    shown = [_show(line, trace.root.start, scale, paint) for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        shown.append(paint.dim(f"  … and {len(lines) - MOST_LINES} more lines"))
    return shown


def _lines(trace: Trace, span: SpanRecord, depth: int) -> Iterator[_Line]:
    yield _Line(depth, [span])
    below = trace.children.get(span.span_id, [])
    for _, run in groupby(below, key=lambda child: (child.name, child.span_id in trace.children)):
        repeats = list(run)
        if len(repeats) >= FOLD and repeats[0].span_id not in trace.children:
            yield _Line(depth + 1, repeats)
        else:
            for child in repeats:
                yield from _lines(trace, child, depth + 1)


def _show(line: _Line, start: int, scale: float, paint: Paint) -> str:
    first = min(BAR - 1, max(0, int((line.spans[0].start - start) * scale)))
    last = min(BAR, max(first + 1, round((max(span.end for span in line.spans) - start) * scale)))
    blank, bar = " " * first, ("▒" if len(line.spans) > 1 else "█") * (last - first)
    colour = paint.red if line.error else paint.cyan if line.depth else paint.bold
    duration = f"{words.seconds(line.seconds):>8}"
    error = f"  {paint.red(line.error)}" if line.error else ""
    return f"{line.name:<{NAME}}  {blank}{colour(bar)}{' ' * (BAR - last)}  {duration}{error}"

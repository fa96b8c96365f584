"""The plots of a report as inline SVG: a stacked budget bar, latency quantiles on a logarithmic scale, a gauge.

The title of each plot has its figures, for screen readers. Colours are classes of the page's style.
"""

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

from otel_fastperf.internals.text_safety import printable
from otel_fastperf.report.formatting import bound, quantile
from otel_fastperf.report.labels import LATENCY_BOUNDS, PLAIN, latency
from otel_fastperf.report.model import RouteVerdict

#: width in a plot's own units; the page stretches it
WIDTH: Final = 600
#: seconds of the grid lines
_TICKS: Final = (0.005, 0.01, 0.1, 1.0, 10.0)


def safe(text: str, *, keep: str = "") -> str:
    """Foreign text as HTML, for an element or an attribute."""
    return escape(printable(text, keep=keep))


def budget_bar(segments: Mapping[str, float]) -> str:
    """A bar of the segments."""
    total = sum(segments.values())
    if not total:
        return ""
    shares = [(segment, spent / total) for segment, spent in segments.items()]
    title = ", ".join(f"{share:.0%} {plain(segment)}" for segment, share in shares)
    parts, left = [], 0.0
    for segment, share in shares:
        wide = share * WIDTH
        parts.append(
            f'<rect class="s-{segment_class(segment)}" x="{left:.1f}" y="0"'
            f' width="{max(wide - 1, 0.5):.1f}" height="18">'
            f"<title>{safe(plain(segment))} {share:.1%}</title></rect>"
        )
        left += wide
    return _svg(title, 18, parts, stretch=True)


def plain(segment: str) -> str:
    """A segment in words."""
    return PLAIN.get(segment, segment)


def segment_class(segment: str) -> str:
    """The CSS name of a segment's colour; unknown segments share one."""
    return segment if segment in PLAIN else "other"


def latency_plot(route: RouteVerdict) -> str:
    """A line from p50 to p99."""
    known = {"p50": route.p50, "p95": route.p95, "p99": route.p99}
    points = [(name, value) for name, value in known.items() if value is not None]
    if not points:
        return ""
    title = ", ".join(f"{name} {quantile(latency(value, route.latency_bounds))}" for name, value in points)
    places = [_place(value) for _, value in points]
    parts = [_grid(22)]
    parts.append(f'<line class="range" x1="{places[0]:.1f}" x2="{places[-1]:.1f}" y1="11" y2="11"/>')
    parts += [
        f'<circle class="{name}" cx="{place:.1f}" cy="11" r="5">'
        f"<title>{name} {safe(quantile(latency(value, route.latency_bounds)))}</title></circle>"
        for (name, value), place in zip(points, places, strict=True)
    ]
    return _svg(title, 22, parts)


def latency_axis() -> str:
    """The scale of all latency plots."""
    labels = [
        f'<text x="{_place(tick):.1f}" y="15" text-anchor="{_anchor(tick)}">{bound(tick)}</text>'
        for tick in _TICKS
        if tick != _TICKS[1]
    ]
    return _svg("Logarithmic scale from 5 ms to 10 s", 20, [*labels], css="axis")


def _anchor(tick: float) -> str:
    return "start" if tick == _TICKS[0] else "end" if tick == _TICKS[-1] else "middle"


def _grid(height: int) -> str:
    return "".join(
        f'<line class="grid" x1="{_place(tick):.1f}" x2="{_place(tick):.1f}" y1="0" y2="{height}"/>' for tick in _TICKS
    )


def _place(value: float) -> float:
    lowest, highest = LATENCY_BOUNDS
    share = math.log(min(max(value, lowest), highest) / lowest) / math.log(highest / lowest)
    return 8 + share * (WIDTH - 16)


def gauge(title: str, parts: Iterable[tuple[str, float]]) -> str:
    """A bar of shares (0 to 1), from the left; each part has a CSS class."""
    drawn, left = [f'<rect class="track" x="0" y="0" width="{WIDTH}" height="10" rx="5"/>'], 0.0
    for css, share in parts:
        wide = min(max(share, 0.0) * WIDTH, WIDTH - left)
        drawn.append(f'<rect class="{css}" x="{left:.1f}" y="0" width="{wide:.1f}" height="10" rx="5"/>')
        left += wide
    return _svg(title, 10, drawn, stretch=True)


def _svg(title: str, height: int, parts: Iterable[str], *, css: str = "", stretch: bool = False) -> str:
    aspect = ' preserveAspectRatio="none"' if stretch else ""
    named = f' class="{css}"' if css else ""
    head = f'<svg{named} role="img" viewBox="0 0 {WIDTH} {height}"{aspect}>'
    return f"{head}<title>{safe(title)}</title>{''.join(parts)}</svg>"

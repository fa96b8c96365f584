"""Series over time and heatmaps as SVG."""

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tools.dashboards.picture import svg
from tools.dashboards.picture.prometheus import Answer, Series, Window
from tools.dashboards.picture.values import PALETTE, hue, ticks, written

#: pixels for the figures of the y axis of a heatmap, for the times below, and for a line of the legend
LEFT, BELOW, LEGEND = 62, 20, 18
_LEGEND_LINES: Final = 2


@dataclass(frozen=True, slots=True)
class Box:
    """A place on the page, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Axes:
    """Turns time and value into pixels of the plotting area."""

    area: Box
    window: Window
    top: float

    def x(self, at: float) -> float:
        """Pixels from the left of the page."""
        return self.area.x + (at - self.window.start) / (self.window.end - self.window.start) * self.area.width

    def y(self, value: float) -> float:
        """Pixels from the top of the page."""
        share = min(1.0, max(0.0, value / self.top))
        return self.area.y + self.area.height * (1 - share)


def graph(panel: Mapping[str, Any], answer: Answer, window: Window, box: Box) -> Iterator[str]:
    """A timeseries panel: lines, bars or a stack, limits, exemplars and a legend."""
    series = answer.every
    custom = panel["fieldConfig"]["defaults"]["custom"]
    legend_lines = legend_of(series, panel, box.width)
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    tops = _stack(series) if stacked else [dict(one.points) for one in series]
    unit = panel["fieldConfig"]["defaults"].get("unit", "none")
    height = box.height - BELOW - 6 - len(legend_lines) * LEGEND
    ceiling, marks = _scale(panel, tops, height)
    left = max(svg.width_of(written(mark, unit), 11) for mark in marks) + 16
    axes = Axes(Box(box.x + left, box.y + 6, box.width - left - 10, height), window, ceiling)
    yield from _frame(axes, marks, unit)
    bars = custom.get("drawStyle") == "bars"
    colours = colours_of(series, panel)
    for number in reversed(range(len(series))) if stacked else range(len(series)):
        floor = tops[number - 1] if stacked and number else {}
        if bars:
            yield from _bars(axes, tops[number], colours[number])
        else:
            filled = custom.get("fillOpacity", 0) / 100
            dashes = is_dashed(series[number].name, panel)
            yield from _line(axes, tops[number], floor, colours[number], 0 if dashes else filled, dashed=dashes)
    yield from _limits(panel, axes)
    yield from _exemplars(answer, axes)
    yield from _legend(legend_lines, box)


def _scale(panel: Mapping[str, Any], tops: Sequence[Mapping[float, float]], height: float) -> tuple[float, list[float]]:
    """Where the y axis ends, at the panel's maximum or above the highest value; and its marks."""
    defaults = panel["fieldConfig"]["defaults"]
    highest = max((value for one in tops for value in one.values()), default=0.0)
    ceiling = defaults.get("max")
    marks = ticks(ceiling or highest, defaults.get("unit", "none"), most=max(2, int(height // 34)))
    return ceiling or marks[-1], marks


def _stack(series: Sequence[Series]) -> list[dict[float, float]]:
    """The upper edge of each series on top of those before it; where one is absent it adds nothing."""
    times = sorted({at for one in series for at, _ in one.points})
    height = dict.fromkeys(times, 0.0)
    edges = []
    for one in series:
        own = dict(one.points)
        height = {at: height[at] + own.get(at, 0.0) for at in times}
        edges.append(height)
    return edges


def _frame(axes: Axes, marks: Sequence[float], unit: str) -> Iterator[str]:
    """Grid, values at the left and times below."""
    area = axes.area
    for mark in marks:
        y = axes.y(mark)
        yield svg.line(area.x, y, area.x + area.width, y, style='class="grid"')
        yield svg.label(area.x - 6, y + 4, written(mark, unit), size=11, kind="soft", anchor="end")
    yield from times_below(axes)


def times_below(axes: Axes) -> Iterator[str]:
    """Times of day, in UTC, at round minutes."""
    span = axes.window.end - axes.window.start
    steps = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
    step = next((one for one in steps if span / one * 58 <= axes.area.width), 86400)
    at = math.ceil(axes.window.start / step) * step
    while at <= axes.window.end:
        if axes.x(at) < axes.area.x + axes.area.width - 12:
            text = time.strftime("%H:%M", time.gmtime(at))
            yield svg.label(
                axes.x(at), axes.area.y + axes.area.height + 15, text, size=11, kind="soft", anchor="middle"
            )
        at += step


def _runs(points: Mapping[float, float], step: float) -> Iterator[list[tuple[float, float]]]:
    """Points without a gap between them."""
    run: list[tuple[float, float]] = []
    for at in sorted(points):
        if run and at - run[-1][0] > step * 1.5:
            yield run
            run = []
        run.append((at, points[at]))
    if run:
        yield run


def _line(
    axes: Axes,
    points: Mapping[float, float],
    floor: Mapping[float, float],
    colour: str,
    opacity: float,
    *,
    dashed: bool,
) -> Iterator[str]:
    for run in _runs(points, axes.window.step):
        edge = [(axes.x(at), axes.y(value)) for at, value in run]
        if len(edge) == 1:
            yield f'<circle cx="{svg.number(edge[0][0])}" cy="{svg.number(edge[0][1])}" r="2" fill="{colour}"/>'
            continue
        if opacity:
            under = [(axes.x(at), axes.y(floor.get(at, 0.0))) for at, _ in reversed(run)]
            yield f'<path d="{svg.path(edge + under)}Z" fill="{colour}" fill-opacity="{opacity:g}"/>'
        pattern = ' stroke-dasharray="6 5"' if dashed else ""
        yield (
            f'<path d="{svg.path(edge)}" fill="none" stroke="{colour}" stroke-width="1.6"{pattern} '
            'stroke-linejoin="round"/>'
        )


def _bars(axes: Axes, points: Mapping[float, float], colour: str) -> Iterator[str]:
    """From the bottom up: what is lower in a stack is drawn over it later."""
    width = axes.area.width * axes.window.step / (axes.window.end - axes.window.start)
    bottom = axes.area.y + axes.area.height
    for at, value in points.items():
        if value > 0:
            y = axes.y(value)
            left = max(axes.area.x, axes.x(at) - width * 0.45)
            right = min(axes.area.x + axes.area.width, axes.x(at) + width * 0.45)
            yield svg.rectangle(left, y, right - left, bottom - y, style=f'fill="{colour}" fill-opacity="0.9"')


def _limits(panel: Mapping[str, Any], axes: Axes) -> Iterator[str]:
    """Dashed lines at fixed values, where the panel asks for them and they are in sight."""
    defaults = panel["fieldConfig"]["defaults"]
    if defaults["custom"].get("thresholdsStyle", {}).get("mode") != "dashed":
        return
    for step in defaults["thresholds"]["steps"]:
        if step.get("value") is not None and step["value"] <= axes.top:
            y = axes.y(step["value"])
            style = f'stroke="{hue(step["color"])}" stroke-dasharray="4 4" stroke-opacity="0.8"'
            yield svg.line(axes.area.x, y, axes.area.x + axes.area.width, y, style=style)


def _exemplars(answer: Answer, axes: Axes) -> Iterator[str]:
    """A diamond for each traced request that is in sight."""
    in_sight = [(at, value) for at, value in answer.exemplars if value <= axes.top]
    for at, value in _slowest(in_sight, axes.window):
        yield diamond(axes.x(at), axes.y(value))


def _slowest(exemplars: Sequence[tuple[float, float]], window: Window) -> list[tuple[float, float]]:
    """The slowest of each two steps: Grafana shows a selection too."""
    slowest: dict[int, tuple[float, float]] = {}
    for at, value in exemplars:
        place = int(at // (2 * window.step))
        if window.start <= at <= window.end and value > slowest.get(place, (0.0, -1.0))[1]:
            slowest[place] = (at, value)
    return list(slowest.values())


def diamond(x: float, y: float) -> str:
    """The mark of a traced request."""
    corners = " ".join(f"{svg.number(x + dx)},{svg.number(y + dy)}" for dx, dy in ((0, -4), (4, 0), (0, 4), (-4, 0)))
    return f'<polygon points="{corners}" fill="#5794f2" class="ring" stroke-width="0.7"/>'


def matches(matcher: Mapping[str, Any], name: str) -> bool:
    """Whether an override is about a series or column of this name."""
    options = str(matcher["options"])
    if matcher["id"] == "byRegexp":
        return re.search(options.strip("/"), name) is not None
    return options == name


def overrides_of(name: str, panel: Mapping[str, Any]) -> dict[str, Any]:
    """Properties that the panel sets for one series or column."""
    found: dict[str, Any] = {}
    for override in panel["fieldConfig"]["overrides"]:
        if matches(override["matcher"], name):
            found |= {one["id"]: one.get("value") for one in override["properties"]}
    return found


def is_dashed(name: str, panel: Mapping[str, Any]) -> bool:
    """Whether a series is a limit of others."""
    return "custom.lineStyle" in overrides_of(name, panel)


def colours_of(series: Sequence[Series], panel: Mapping[str, Any]) -> list[str]:
    """One colour for each series: the panel's own, else the palette's next."""
    own = [overrides_of(one.name, panel).get("color", {}).get("fixedColor") for one in series]
    return [hue(name) if name else PALETTE[number % len(PALETTE)] for number, name in enumerate(own)]


def legend_of(series: Sequence[Series], panel: Mapping[str, Any], width: float) -> list[list[tuple[str, str, float]]]:
    """Lines of (name, colour, x): two at most, and how many more there are."""
    lines: list[list[tuple[str, str, float]]] = [[]]
    x = 10.0
    for number, (one, colour) in enumerate(zip(series, colours_of(series, panel), strict=True)):
        name = svg.fitted(one.name or "(none)", 260, 11)
        needed = svg.width_of(name, 11) + 26
        if x + needed > width - 60 and lines[-1]:
            if len(lines) == _LEGEND_LINES:
                lines[-1].append((f"and {len(series) - number} more", "", x))
                break
            lines.append([])
            x = 10.0
        lines[-1].append((name, colour, x))
        x += needed
    return [line for line in lines if line]


def _legend(lines: Sequence[Sequence[tuple[str, str, float]]], box: Box) -> Iterator[str]:
    for number, entries in enumerate(lines):
        y = box.y + box.height - LEGEND * (len(lines) - number) + 13
        for name, colour, x in entries:
            if colour:
                yield svg.rectangle(box.x + x, y - 5, 12, 3, style=f'fill="{colour}"', radius=1.5)
            yield svg.label(box.x + x + (16 if colour else 0), y, name, size=11, kind="soft")


def heatmap(panel: Mapping[str, Any], answer: Answer, window: Window, box: Box) -> Iterator[str]:
    """Cells of a histogram's buckets over time: the darker, the more."""
    columns = _cells(answer.every)
    bounds = _bounds(answer.every, columns)
    area = Box(box.x + LEFT, box.y + 6, box.width - LEFT - 8, box.height - BELOW - 6)
    axes = Axes(area, window, 1.0)
    unit = panel["options"]["yAxis"].get("unit", "none")
    row = area.height / len(bounds)
    most = max((value for column in columns.values() for value in column.values()), default=1.0) or 1.0
    width = area.width * window.step / (window.end - window.start)
    for number, bound in enumerate(bounds):
        y = area.y + area.height - row * (number + 1)
        if number % max(1, math.ceil(15 / row)) == 0:
            words = "more" if math.isinf(bound) else written(bound, unit)
            yield svg.label(area.x - 6, y + 4, words, size=11, kind="soft", anchor="end")
        yield svg.line(area.x, y, area.x + area.width, y, style='class="grid"')
    for at, column in columns.items():
        left = max(area.x, axes.x(at) - width)
        for number, bound in enumerate(bounds):
            if (value := column.get(bound, 0.0)) > 0:
                y = area.y + area.height - row * (number + 1)
                opacity = 0.12 + 0.88 * math.sqrt(value / most)
                style = f'fill="#3274d9" fill-opacity="{opacity:.2f}"'
                yield svg.rectangle(left + 0.5, y + 0.5, axes.x(at) - left - 1, row - 1, style=style)
    for at, value in _slowest(answer.exemplars, window):
        place = _place(value, bounds)
        if place is not None:
            yield diamond(axes.x(at), area.y + area.height - row * place)
    yield from times_below(axes)


def _cells(series: Sequence[Series]) -> dict[float, dict[float, float]]:
    """By time and upper bound, how many fell between it and the bound below: Prometheus' buckets are cumulative."""
    ordered = sorted(series, key=_bound)
    columns: dict[float, dict[float, float]] = {}
    before: dict[float, float] = {}
    for one in ordered:
        for at, value in one.points:
            columns.setdefault(at, {})[_bound(one)] = max(0.0, value - before.get(at, 0.0))
            before[at] = value
    return columns


def _bound(one: Series) -> float:
    return float(one.labels["le"])


def _bounds(series: Sequence[Series], columns: Mapping[float, Mapping[float, float]]) -> list[float]:
    """Upper bounds from the lowest to the highest one that holds anything, and one more."""
    every = sorted(_bound(one) for one in series)
    used = [bound for bound in every if any(column.get(bound, 0.0) > 0 for column in columns.values())]
    return every[: every.index(used[-1]) + 1] if used else every


def _place(value: float, bounds: Sequence[float]) -> float | None:
    """How many rows up a value lies."""
    below = 0.0
    for number, bound in enumerate(bounds):
        if value <= bound:
            share = 0.5 if math.isinf(bound) else (value - below) / (bound - below)
            return number + share
        below = bound
    return None

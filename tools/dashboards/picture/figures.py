"""Single figures, bars, tables and words as SVG."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tools.dashboards.picture import svg
from tools.dashboards.picture.graphs import Box, overrides_of
from tools.dashboards.picture.prometheus import Answer, Series, Window
from tools.dashboards.picture.values import colour_of, hue, written

#: pixels
LINE, HEAD = 25, 26
_BAR_LINE: Final = 26
#: figures one above the other
_MOST_STACKED: Final = 3

Row = dict[str, str | float]


def stat(panel: Mapping[str, Any], answer: Answer, window: Window, box: Box) -> Iterator[str]:
    """A large figure for each series, and its course behind it."""
    series = answer.every
    wide = box.width >= box.height * 2.4 or len(series) > _MOST_STACKED
    share = (box.width / len(series), box.height) if wide else (box.width, box.height / len(series))
    for number, one in enumerate(series):
        cell = Box(
            box.x + (share[0] * number if wide else 0), box.y + (0 if wide else share[1] * number), share[0], share[1]
        )
        yield from _figure(panel, one, window, cell, named=_is_named(panel, series))


def _is_named(panel: Mapping[str, Any], series: Sequence[Series]) -> bool:
    return len(series) > 1 or panel["options"].get("textMode") == "value_and_name"


def _figure(panel: Mapping[str, Any], one: Series, window: Window, cell: Box, *, named: bool) -> Iterator[str]:
    defaults = panel["fieldConfig"]["defaults"]
    colour = colour_of(one.last, defaults["thresholds"]["steps"])
    text = written(one.last, defaults["unit"], defaults.get("decimals"))
    size = min(30.0, cell.height * (0.42 if named else 0.5), (cell.width - 16) / max(1.0, len(text) * 0.68))
    if panel["options"].get("graphMode") == "area" and len(one.points) > 1:
        yield from _sparkline(one, window, cell, colour)
    middle = cell.y + cell.height / 2 + size * 0.3
    if named:
        room = cell.width - 16
        yield svg.label(cell.x + 10, cell.y + cell.height / 2 - size * 0.55, one.name, size=11, kind="soft", room=room)
        middle += 6
    yield svg.label(cell.x + 10, middle, text, size=size, colour=colour, bold=True)


def _sparkline(one: Series, window: Window, cell: Box, colour: str) -> Iterator[str]:
    lowest = min(0.0, *(value for _, value in one.points))
    highest = max(value for _, value in one.points)
    span = (highest - lowest) or 1.0
    height = cell.height * 0.45
    bottom = cell.y + cell.height - 1

    def place(at: float, value: float) -> tuple[float, float]:
        share = (at - window.start) / (window.end - window.start)
        return cell.x + 1 + share * (cell.width - 2), bottom - (value - lowest) / span * height

    edge = [place(at, value) for at, value in one.points]
    around = [*edge, (edge[-1][0], bottom), (edge[0][0], bottom)]
    yield f'<path d="{svg.path(around)}Z" fill="{colour}" fill-opacity="0.13"/>'
    yield f'<path d="{svg.path(edge)}" fill="none" stroke="{colour}" stroke-opacity="0.55" stroke-width="1.2"/>'


def bars(panel: Mapping[str, Any], answer: Answer, _window: Window, box: Box) -> Iterator[str]:
    """Horizontal bars, the longest on top."""
    defaults = panel["fieldConfig"]["defaults"]
    series = sorted(answer.every, key=lambda one: -one.last)
    shown = series[: max(1, int(box.height // _BAR_LINE))]
    most = defaults.get("max") or max(one.last for one in shown) or 1.0
    names = min(box.width * 0.45, max(svg.width_of(one.name) for one in shown) + 8)
    room = box.width - names - 90
    for number, one in enumerate(shown):
        y = box.y + number * _BAR_LINE
        colour = colour_of(one.last, defaults["thresholds"]["steps"])
        yield svg.label(box.x + 10 + names - 8, y + 17, one.name or "(none)", anchor="end", room=names)
        yield svg.rectangle(box.x + names + 10, y + 5, room, 16, style='class="unfilled"', radius=2)
        width = room * min(1.0, one.last / most)
        yield svg.rectangle(
            box.x + names + 10, y + 5, width, 16, style=f'fill="{colour}" fill-opacity="0.85"', radius=2
        )
        text = written(one.last, defaults["unit"], defaults.get("decimals"))
        yield svg.label(box.x + names + 18 + room, y + 17, text, colour=colour, bold=True)


def table(panel: Mapping[str, Any], answer: Answer, _window: Window, box: Box) -> Iterator[str]:
    """Rows of labels and values, as the panel's transformations name and order them."""
    columns, found = rows_of(panel, answer)
    order = panel["options"]["sortBy"][0]
    found.sort(key=lambda row: _key(row.get(order["displayName"])), reverse=bool(order["desc"]))
    widths = _widths(columns, panel, box.width - 16)
    x = box.x + 8
    for name, width in zip(columns, widths, strict=True):
        yield svg.label(x + 4, box.y + 17, name, size=11, kind="soft", bold=True, room=width - 6)
        x += width
    yield svg.line(box.x + 8, box.y + HEAD, box.x + box.width - 8, box.y + HEAD, style='class="rule"')
    fitting = max(1, int((box.height - HEAD) // LINE))
    shown = found if len(found) <= fitting else found[: fitting - 1]
    for number, row in enumerate(shown):
        yield from _row(panel, columns, widths, row, found, Box(box.x + 8, box.y + HEAD + number * LINE, 0, LINE))
    if len(found) > len(shown):
        y = box.y + HEAD + len(shown) * LINE + 17
        yield svg.label(box.x + 12, y, f"and {len(found) - len(shown)} more, to scroll to", size=11, kind="soft")


def rows_of(panel: Mapping[str, Any], answer: Answer) -> tuple[list[str], list[Row]]:
    """Grafana's `merge` and `organize`: titles of the columns in order, and rows by title."""
    organize = next(one["options"] for one in panel["transformations"] if one["id"] == "organize")
    renamed, order = organize["renameByName"], organize["indexByName"]
    merged: list[Row] = []
    single = len(answer.series) == 1
    for letter, series in answer.series.items():
        value = "Value" if single else f"Value #{letter}"
        for one in series:
            labels = {name: text for name, text in one.labels.items() if name in order}
            _merge(merged, labels, value, one.last)
    names = sorted(order, key=lambda name: int(order[name]))
    return [renamed[name] for name in names], [{renamed[name]: row[name] for name in row} for row in merged]


def _merge(merged: list[Row], labels: Mapping[str, str], value: str, number: float) -> None:
    """Add a value to the rows that have the same labels, as far as both have them; else it is a row of its own."""
    fitting = [
        row for row in merged if value not in row and all(row.get(name, text) == text for name, text in labels.items())
    ]
    if not fitting:
        merged.append({**labels, value: number})
    for row in fitting:
        row.update({**labels, value: number})


def _key(value: str | float | None) -> tuple[bool, float, str]:
    return (value is not None, value, "") if isinstance(value, float) else (value is not None, 0.0, value or "")


def _widths(columns: Sequence[str], panel: Mapping[str, Any], room: float) -> list[float]:
    """Pixels of each column: what was asked for, and the rest in equal parts."""
    asked = [overrides_of(name, panel).get("custom.width") for name in columns]
    free = max(0.0, room - sum(width for width in asked if width))
    share = free / max(1, sum(1 for width in asked if not width))
    return [width or share for width in asked]


def _row(
    panel: Mapping[str, Any],
    columns: Sequence[str],
    widths: Sequence[float],
    row: Row,
    every: Sequence[Row],
    place: Box,
) -> Iterator[str]:
    x = place.x
    for name, width in zip(columns, widths, strict=True):
        yield from _cell(
            row.get(name), overrides_of(name, panel), Box(x, place.y, width, LINE), [r.get(name) for r in every]
        )
        x += width
    yield svg.line(place.x, place.y + LINE, x, place.y + LINE, style='class="grid"')


def _cell(
    value: str | float | None, properties: Mapping[str, Any], box: Box, column: Sequence[object]
) -> Iterator[str]:
    y = box.y + 17
    if not isinstance(value, float):
        link = "#5794f2" if properties.get("links") and value else ""
        yield svg.label(box.x + 4, y, value or "", colour=link, room=box.width - 8)
        return
    text = written(value, properties.get("unit", "short"), properties.get("decimals"))
    kind = properties.get("custom.cellOptions", {}).get("type")
    if kind == "gauge":
        most = max((one for one in column if isinstance(one, float)), default=1.0) or 1.0
        room = box.width - 104
        colour = hue(properties["color"]["fixedColor"])
        yield svg.rectangle(box.x + 4, box.y + 6, room, 13, style='class="unfilled"', radius=2)
        yield svg.rectangle(
            box.x + 4,
            box.y + 6,
            room * max(0.0, value) / most,
            13,
            style=f'fill="{colour}" fill-opacity="0.8"',
            radius=2,
        )
        yield svg.label(box.x + box.width - 18, y, text, anchor="end")
        return
    colour = colour_of(value, properties["thresholds"]["steps"]) if kind == "color-text" else ""
    yield svg.label(box.x + 4, y, text, colour=colour, bold=bool(colour))


def words(panel: Mapping[str, Any], _answer: Answer, _window: Window, box: Box) -> Iterator[str]:
    """Markdown, as far as it is a table or lines."""
    lines = [line for line in panel["options"]["content"].splitlines() if line and not re.fullmatch(r"[|\-\s]+", line)]
    for number, text in enumerate(lines):
        y = box.y + number * (LINE + 2) + 19
        parts = [part.strip() for part in text.strip("|").split("|")]
        for place, part in enumerate(parts):
            x = box.x + 12 + (box.width - 24) * (0, 0.22, 0.58)[place]
            yield svg.label(x, y, part.replace("`", ""), kind="text" if number else "soft", bold=number == 0)
        yield svg.line(box.x + 12, y + 8, box.x + box.width - 12, y + 8, style='class="grid"')

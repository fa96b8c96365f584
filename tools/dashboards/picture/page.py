"""One dashboard as one SVG: its panels at their places, each drawn from what Prometheus answers."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from tools.dashboards.picture import figures, graphs, svg
from tools.dashboards.picture.graphs import Box
from tools.dashboards.picture.prometheus import Answer, Prometheus, Window

#: pixels: of a column and a row of Grafana's grid, between panels, around all of them, above them, of a panel's title
COLUMN, LINE, GAP, MARGIN, TOP, TITLE = 58.0, 36.0, 8.0, 12.0, 74.0, 30.0
COLUMNS: Final = 24
LABEL: Final = (
    "Drawn by this project's renderer from the dashboard's JSON and a real Prometheus; "
    "Grafana looks a little different."
)

Draw = Callable[[Mapping[str, Any], Answer, Window, Box], Iterator[str]]
DRAWN: Final[Mapping[str, Draw]] = {
    "timeseries": graphs.graph,
    "heatmap": graphs.heatmap,
    "stat": figures.stat,
    "bargauge": figures.bars,
    "table": figures.table,
    "text": figures.words,
}


def picture(board: Mapping[str, Any], prometheus: Prometheus, window: Window, *, shown: str) -> str:
    """The SVG. `shown` says what the variables are set to. Raises KeyError for a type of panel that it cannot draw."""
    panels = [*flat(board)]
    height = TOP + max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in panels) * LINE + MARGIN + 20
    width = COLUMNS * COLUMN + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" {svg.size(width, height)}>',
        f"<style>{svg.STYLE}</style>",
        svg.rectangle(0, 0, width, height, style='class="page"'),
        *_head(board, window, shown, width),
    ]
    for panel in panels:
        parts += _panel(panel, prometheus, window)
    parts.append(svg.label(MARGIN + 4, height - 12, LABEL, size=12, kind="soft"))
    return "\n".join((*parts, "</svg>\n"))


def flat(board: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Rows and panels, those of collapsed rows too."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", ()) if panel["type"] == "row" else ()


def _head(board: Mapping[str, Any], window: Window, shown: str, width: float) -> Iterator[str]:
    yield svg.label(MARGIN + 4, 32, board["title"], size=20, bold=True)
    clock = [time.strftime("%H:%M", time.gmtime(at)) for at in (window.start, window.end)]
    yield svg.label(width - MARGIN - 4, 32, f"{clock[0]} to {clock[1]} UTC", size=13, kind="soft", anchor="end")
    yield svg.label(MARGIN + 4, 56, board["description"], size=13, kind="soft")
    yield svg.label(width - MARGIN - 4, 56, shown, size=13, kind="soft", anchor="end")


def _panel(panel: Mapping[str, Any], prometheus: Prometheus, window: Window) -> Iterator[str]:
    """A group that names its panel: a card, the title, and what the panel's type draws below it."""
    at = panel["gridPos"]
    x, y = MARGIN + at["x"] * COLUMN, TOP + at["y"] * LINE
    if panel["type"] == "row":
        yield svg.label(x + 4, y + 24, panel["title"], size=15, bold=True)
        return
    width, height = at["w"] * COLUMN - GAP, at["h"] * LINE - GAP
    yield f'<g data-panel="{panel["id"]}">'
    yield svg.rectangle(x, y, width, height, style='class="card"', radius=3)
    yield svg.label(x + 10, y + 20, panel["title"], size=13, bold=True, room=width - 20)
    inside = Box(x, y + TITLE, width, height - TITLE - 6)
    answer = prometheus.answer(panel, window)
    if panel["type"] != "text" and not answer.every:
        words = panel["fieldConfig"]["defaults"].get("noValue", "no data")
        yield svg.label(x + width / 2, inside.y + inside.height / 2 + 2, words, size=14, kind="soft", anchor="middle")
    else:
        yield from DRAWN[panel["type"]](panel, answer, window, inside)
    yield "</g>"

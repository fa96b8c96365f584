"""Makes the JSON of a dashboard from rows of panels, with this stack's variables, links and settings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from tools.dashboards.annotations import ANNOTATIONS
from tools.dashboards.links import Link
from tools.dashboards.panels import SOURCE, Row
from tools.dashboards.promql import EVERY_APP

COLUMNS: Final = 24
TAG: Final = "fastperf"


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. Its file is named `uid` without the prefix `fastperf-`."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    by_route: bool = False
    links: Sequence[Link] = ()

    @property
    def file_name(self) -> str:
        """`overview.json`."""
        return f"{self.uid.removeprefix('fastperf-')}.json"

    def as_json(self) -> str:
        """The content of the file, always the same for the same code."""
        found: dict[str, Any] = json.loads(JSONEncoder().encode(self._built()))
        found["id"] = None  # Grafana assigns one
        found["annotations"] = {"list": [each.as_json() for each in ANNOTATIONS]}
        found["version"] = 1
        return json.dumps(_without_noise(found), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def _built(self) -> models.Dashboard:
        builder = (
            builders.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags([TAG])
            .readonly()
            .timezone("browser")
            .time("now-1h", "now")
            .refresh("30s")
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .variables(_variables(by_route=self.by_route))
            .link(_siblings())
        )
        for link in self.links:
            builder = builder.link(_own(link))
        dashboard = builder.build()
        dashboard.panels = _placed(self.rows)
        return dashboard


def _variables(*, by_route: bool) -> Any:
    job = _query("job", "Service", f"label_values({EVERY_APP}, job)")
    instance = _query("instance", "Instance", f'label_values({EVERY_APP}{{job=~"$job"}}, instance)')
    listed = [
        builders.DatasourceVariable("datasource").label("Data Source").type("prometheus"),
        builders.DatasourceVariable("jaeger").label("Traces").type("jaeger").hide(models.VariableHide.HIDE_VARIABLE),
        job,
        instance,
    ]
    if by_route:
        routes = 'label_values(http_server_request_duration_seconds_count{job=~"$job"}, http_route)'
        methods = (
            'label_values(http_server_request_duration_seconds_count{job=~"$job", http_route=~"$route"},'
            " http_request_method)"
        )
        listed += [_query("route", "Route", routes), _query("method", "Method", methods)]
    return listed


def _query(name: str, label: str, query: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .definition(query)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _siblings() -> builders.DashboardLink:
    """Links to all dashboards of this stack that keep the time range and the variables."""
    return (
        builders.DashboardLink("otel-fastperf")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .tooltip("The other dashboards, for the same services and time range")
        .keep_time(True)
        .include_vars(True)
        .as_dropdown(False)
    )


def _own(link: Link) -> builders.DashboardLink:
    return (
        builders.DashboardLink(link.title)
        .type(models.DashboardLinkType.LINK)
        .url(link.url)
        .icon("external link")
        .target_blank(link.new_tab)
    )


def _placed(rows: Sequence[Row]) -> list[models.Panel | models.RowPanel]:
    """The titles and panels of all rows, from the top, with positions and ids."""
    placed: list[models.Panel | models.RowPanel] = []
    top, number = 0, 1
    for row in rows:
        title = models.RowPanel(
            title=row.title, collapsed=row.collapsed, grid_pos=models.GridPos(h=1, w=COLUMNS, x=0, y=top), id_val=number
        )
        placed.append(title)
        below = _flowed(row.panels, top + 1, number + 1)
        if row.collapsed:
            title.panels = row.panels
        else:
            placed.extend(row.panels)
        top = top + 1 if row.collapsed else below
        number += 1 + len(row.panels)
    return placed


def _flowed(panels: Sequence[models.Panel], top: int, number: int) -> int:
    """Place panels in lines of 24 columns; return the y below them. Panels of a line have the same height."""
    x, below = 0, top
    for offset, panel in enumerate(panels):
        position = panel.grid_pos
        assert position is not None, "every panel has a size"  # noqa: S101 - for mypy
        if x + position.w > COLUMNS:
            x, top = 0, below
        position.x, position.y = x, top
        panel.id_val = number + offset
        x += position.w
        below = max(below, top + position.h)
    return below


#: properties that the SDK writes although they have no effect: Grafana's defaults, and options of other variables
_NOISE: Final = {"auto", "auto_count", "auto_min", "placement"}


def _without_noise(found: dict[str, Any]) -> dict[str, Any]:
    for listed in (found["templating"]["list"], found["links"]):
        for item in listed:
            for name in _NOISE & item.keys():
                del item[name]
    for panel in found["panels"]:
        for link in panel.get("fieldConfig", {}).get("defaults", {}).get("links", ()):
            for name in link.keys() - {"title", "url", "targetBlank"}:
                del link[name]
    return found

"""Builders of panels with title, description, unit, queries and links."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, table, text, timeseries
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

from tools.dashboards.links import Link

SOURCE: Final = kinds.DataSourceRef(type_val="prometheus", uid="${datasource}")
#: Grafana's named colours: they follow its light and dark themes
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"

#: shown for series that are absent until something fails
NONE_SEEN: Final = "none seen"
#: regular expression for the status at the end of a series' name -> colour: what succeeds is neutral, so that failures
#: are what is seen
STATUSES: Final[Mapping[str, str]] = {
    "/1..$/": "#8e8e8e",
    "/2..$/": "#a8b0b8",
    "/3..$/": "#7c8794",
    "/4..$/": "orange",
    "/5..$/": "red",
}
#: one colour per segment of the time budget, the same on every dashboard; what awaits is the pale shade of what runs
SEGMENTS: Final[Mapping[str, str]] = {
    "middleware": "purple",
    "middleware_await": "super-light-purple",
    "dependencies": "#1fa7a0",
    "dependencies_await": "#a6dedb",
    "handler": "blue",
    "handler_await": "super-light-blue",
    "db": "orange",
    "commit": "dark-orange",
    "http_client": "dark-yellow",
    "rpc": "semi-dark-yellow",
    "cache": "light-yellow",
    "messaging": "super-light-yellow",
    "pool_wait": "red",
    "threadpool_wait": "light-red",
    "loop_wait": "dark-red",
    "gc": "yellow",
    "serialization": "green",
    "send": "light-green",
}


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel. `legend` is a template of labels: `{{job}}`."""

    expr: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """How a table shows a label or a query: title, unit, width in pixels, and links of its cells.

    `words` are colours of the texts that a label may have.
    """

    title: str
    unit: str = ""
    width: int = 0
    bar: bool = False
    decimals: int | None = None
    links: tuple[Link, ...] = ()
    limits: tuple[tuple[float | None, str], ...] = ()
    words: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Row:
    """A titled row: its panels are side by side, in several lines if they need more than 24 columns."""

    title: str
    panels: list[models.Panel] = field(default_factory=list)
    collapsed: bool = False


def ok_below(warning: float, critical: float) -> tuple[tuple[float | None, str], ...]:
    """Limits of a value that is good when it is small."""
    return (None, GREEN), (warning, YELLOW), (critical, RED)


def ok_above(critical: float, warning: float) -> tuple[tuple[float | None, str], ...]:
    """Limits of a value that is good when it is large."""
    return (None, RED), (critical, YELLOW), (warning, GREEN)


def numbers(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    width: int = 3,
    height: int = 4,
    limits: Sequence[tuple[float | None, str]] = ((None, BLUE),),
    decimals: int | None = None,
    sparkline: bool = True,
    instant: bool = False,
    show: Literal["auto", "value_and_name", "name"] = "auto",
    links: Sequence[Link] = (),
    no_value: str = "no data",
) -> models.Panel:
    """Large figures, one per series, with a sparkline behind each."""
    builder = (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .graph_mode(kinds.BigValueGraphMode.AREA if sparkline and not instant else kinds.BigValueGraphMode.NONE)
        .color_mode(kinds.BigValueColorMode.VALUE)
        .text_mode(kinds.BigValueTextMode(show))
    )
    panel = _dressed(builder.build(), title, description, unit, width, height)
    panel.targets = [_target(query, 0, instant=instant).build()]
    _style(panel, limits, colour=models.FieldColorModeId.THRESHOLDS, links=links)
    defaults = _defaults(panel)
    defaults.decimals = decimals
    defaults.no_value = no_value
    return panel


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    bars: bool = False,
    maximum: float | None = None,
    colours: Mapping[str, str] | None = None,
    limits: Sequence[tuple[float | None, str]] = (),
    dashed: Sequence[str] = (),
    fill: int = 8,
    no_value: str | None = None,
    links: Sequence[Link] = (),
    failing: bool = False,
) -> models.Panel:
    """Series over time.

    `dashed` names series that are limits of others; `limits` draws lines at fixed values. `failing`: each series is a
    failure, so they have shades of red, whatever their number and order.
    """
    builder = (
        timeseries.Panel()
        .draw_style(kinds.GraphDrawStyle.BARS if bars else kinds.GraphDrawStyle.LINE)
        .line_width(1 if stacked or bars else 2)
        .fill_opacity(70 if stacked or bars else fill)
        .show_points(kinds.VisibilityMode.NEVER)
        .stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL if stacked else kinds.StackingMode.NONE))
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
        )
    )
    if limits:
        mode = kinds.GraphThresholdsStyleMode.DASHED
        builder = builder.thresholds_style(common.GraphThresholdsStyleConfig().mode(mode))
    panel = _dressed(builder.build(), title, description, unit, width, height)
    panel.targets = [_target(query, number).build() for number, query in enumerate(queries)]
    _style(panel, limits or ((None, GREEN),), colour=models.FieldColorModeId.PALETTE_CLASSIC, links=links)
    if failing:
        _defaults(panel).color = models.FieldColor(mode=models.FieldColorModeId.SHADES, fixed_color=RED)
    _defaults(panel).min_val = 0
    _defaults(panel).max_val = maximum
    _defaults(panel).no_value = no_value
    for name, colour in (colours or {}).items():
        _override(panel, name, {"color": {"mode": "fixed", "fixedColor": colour}})
    for name in dashed:
        _override(panel, name, {"custom.lineStyle": {"fill": "dash", "dash": [8, 8]}, "custom.fillOpacity": 0})
    return panel


def cells(title: str, description: str, unit: str, query: Query, *, width: int = 12, height: int = 8) -> models.Panel:
    """A heatmap of a histogram's buckets."""
    builder = (
        heatmap.Panel()
        .calculate(False)
        .cell_gap(1)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .rows_frame(heatmap.RowsHeatmapOptions().layout(kinds.HeatmapCellLayout.AUTO))
        .tooltip(heatmap.HeatmapTooltip().mode(kinds.TooltipDisplayMode.SINGLE).y_histogram(True))
        .show_legend()
    )
    panel = _dressed(builder.build(), title, description, unit, width, height)
    panel.targets = [_target(query, 0).format(PromQueryFormat.HEATMAP).build()]
    return panel


def gauges(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    width: int = 8,
    height: int = 8,
    maximum: float | None = None,
    decimals: int | None = None,
    limits: Sequence[tuple[float | None, str]] = ((None, BLUE),),
    no_value: str | None = None,
    links: Sequence[Link] = (),
) -> models.Panel:
    """Bars with the newest value of each series."""
    builder = (
        bargauge.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .value_mode(kinds.BarGaugeValueMode.TEXT)
    )
    panel = _dressed(builder.build(), title, description, unit, width, height)
    panel.targets = [_target(query, 0, instant=True).build()]
    _style(panel, limits, colour=models.FieldColorModeId.THRESHOLDS, links=links)
    _defaults(panel).min_val = 0
    _defaults(panel).max_val = maximum
    _defaults(panel).decimals = decimals
    _defaults(panel).no_value = no_value
    return panel


def rows(
    title: str,
    description: str,
    queries: Mapping[str, Column],
    labels: Mapping[str, Column],
    *,
    order: str,
    unit: str = "short",
    no_value: str | None = None,
    width: int = 24,
    height: int = 9,
) -> models.Panel:
    """A table: one row per set of labels, one column per label and per query, sorted by the column titled `order`.

    `queries` is keyed by PromQL. They must have no other labels, which would be columns too.
    """
    builder = table.Panel().sort_by([common.TableSortByFieldState().display_name(order).desc(True)])
    panel = _dressed(builder.build(), title, description, unit, width, height)
    panel.targets = [
        _target(Query(expr), number, instant=True).format(PromQueryFormat.TABLE).build()
        for number, expr in enumerate(queries)
    ]
    values = {_value(number, len(queries)): column for number, column in enumerate(queries.values())}
    columns = {**labels, **values}
    panel.transformations = [
        models.DataTransformerConfig(id_val="merge", options={}),
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": {name: number for number, name in enumerate(columns)},
                "renameByName": {name: column.title for name, column in columns.items()},
            },
        ),
    ]
    _style(panel, ((None, GREEN),), colour=models.FieldColorModeId.THRESHOLDS)
    _defaults(panel).no_value = no_value
    for column in columns.values():
        _override(panel, column.title, _cell(column))
    return panel


def words(title: str, description: str, content: str, *, width: int = 24, height: int = 4) -> models.Panel:
    """Text in Markdown."""
    builder = text.Panel().mode(TextMode.MARKDOWN).content(content)
    panel = _dressed(builder.build(), title, description, "", width, height)
    panel.datasource = None
    return panel


def _value(number: int, of: int) -> str:
    """Grafana's name for the value of a table's query, with a letter if there are several."""
    return f"Value #{_letter(number)}" if of > 1 else "Value"


def _cell(column: Column) -> dict[str, object]:
    properties: dict[str, object] = {}
    if column.unit:
        properties["unit"] = column.unit
    if column.width:
        properties["custom.width"] = column.width
    if column.decimals is not None:
        properties["decimals"] = column.decimals
    if column.bar:
        properties |= {"custom.cellOptions": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}, "min": 0}
        properties["color"] = {"mode": "fixed", "fixedColor": BLUE}
    if column.limits:
        steps = [{"value": value, "color": colour} for value, colour in column.limits]
        properties["thresholds"] = {"mode": "absolute", "steps": steps}
        properties["custom.cellOptions"] = {"type": "color-text"}
    if column.words:
        shown = {word: {"color": colour, "index": number} for number, (word, colour) in enumerate(column.words)}
        properties["mappings"] = [{"type": "value", "options": shown}]
        properties["custom.cellOptions"] = {"type": "color-text"}
    if column.links:
        properties["links"] = [link.as_json() for link in column.links]
    return properties


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _target(query: Query, number: int, *, instant: bool = False) -> prometheus.Dataquery:
    builder = prometheus.Dataquery().expr(query.expr).ref_id(_letter(number)).datasource(SOURCE)
    builder = builder.instant() if instant else builder.range()
    if query.legend:
        builder = builder.legend_format(query.legend)
    return builder.exemplar(True) if query.exemplars else builder


def _dressed(panel: models.Panel, title: str, description: str, unit: str, width: int, height: int) -> models.Panel:
    panel.title, panel.description, panel.datasource = title, description, SOURCE
    panel.grid_pos = models.GridPos(h=height, w=width)
    panel.repeat_direction = panel.transparent = None
    if panel.field_config is None:
        panel.field_config = models.FieldConfigSource()
    if unit:
        panel.field_config.defaults.unit = unit
    return panel


def _defaults(panel: models.Panel) -> models.FieldConfig:
    assert panel.field_config is not None, "every panel has been dressed"  # noqa: S101 - for mypy
    return panel.field_config.defaults


def _style(
    panel: models.Panel,
    limits: Sequence[tuple[float | None, str]],
    *,
    colour: models.FieldColorModeId,
    links: Sequence[Link] = (),
) -> None:
    defaults = _defaults(panel)
    steps = [models.Threshold(value=value, color=name) for value, name in limits]
    defaults.thresholds = models.ThresholdsConfig(mode=models.ThresholdsMode.ABSOLUTE, steps=steps)
    defaults.color = models.FieldColor(mode=colour)
    if links:
        defaults.links = [link.as_model() for link in links]


def _override(panel: models.Panel, name: str, properties: Mapping[str, object]) -> None:
    assert panel.field_config is not None, "every panel has been dressed"  # noqa: S101 - for mypy
    if not properties:
        return
    panel.field_config.overrides.append(
        models.DashboardFieldConfigSourceOverrides(
            matcher=models.MatcherConfig(id_val="byRegexp" if name.startswith("/") else "byName", options=name),
            properties=[models.DynamicConfigValue(id_val=key, value=value) for key, value in properties.items()],
        )
    )

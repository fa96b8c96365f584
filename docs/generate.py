"""Generates pages from the code: `python -m docs.generate` (`make docs`)."""

import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from otel_fastperf.metrics import GROUPS, Metric
from otel_fastperf.settings import OWN, STANDARD, Settings, spelled
from tools import semconv

FOLDER: Final = Path(__file__).parent

ROOT: Final = FOLDER.parent

# The table of layers in CONTRIBUTING.md is between these lines.
LAYERS_BEGIN: Final = "<!-- layers: written by `make docs` from [tool.importlinter] in pyproject.toml -->\n"
LAYERS_END: Final = "<!-- end of layers -->\n"

METRICS_HEAD: Final = """\
# Metrics

The metrics on `/metrics`. `make docs` generates this page from `otel_fastperf/metrics.py`.

Names, labels and buckets follow OpenTelemetry's semantic conventions, mapped to Prometheus as OpenTelemetry does it.
Metrics without a convention begin with `fastperf_`; `process_*` and `python_*` are prometheus_client's own. A metric
appears with its first use, so those of a part that is switched off are absent, not 0. A label that does not apply is
empty, which Prometheus treats like a missing label.

- **Formats.** Scrapers that ask for OpenMetrics 1.0.0, as Prometheus does, get it with exemplars (the trace id of a
  sampled request), units and creation times. All others get the text format 0.0.4 without these. Prometheus stores
  creation times as further series, `…_created`; prometheus_client's variable `PROMETHEUS_DISABLE_CREATED_SERIES=true`
  leaves them out.
- **By OTLP.** `OTEL_METRICS_EXPORTER=otlp` (or `prometheus,otlp`) also pushes them to a collector, every 60 seconds
  (`OTEL_METRIC_EXPORT_INTERVAL`), cumulative or delta (`OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`): the same
  counters under the names of the conventions, such as `http.server.request.duration`, from which Prometheus' OTLP
  receiver makes those below. Each worker pushes its own, with its `service.instance.id`; your own metrics, and those
  that [others push already](beside-others.md#one-number-per-request), are not among them. A push that fails is counted
  in `fastperf_telemetry_errors_total{part="metrics_export"}`.
- **Your own metrics** on prometheus_client's default registry appear on the same page. A metric that cannot be rendered
  is left out and counted in `fastperf_telemetry_errors_total{part="exposition"}`; the rest of the page is not affected.
  If one of your metrics has the name of a metric below, it is not shown, and the log says so once. If one of your
  collectors hangs, so does the page, as with prometheus_client.
- **Your own labels** of the durations of requests, such as a tenant: [hooks](hooks.md#labels-of-the-request-metric).
- **Limits.** A label whose values come from outside has at most 100 of them (`error_type`, `server_address`,
  `db_namespace`), and the combinations of such labels are bounded; further values are `_OVERFLOW`, and the other labels
  stay. A status outside of 100 to 599 is `_OTHER`. A metric has at most `metrics.max_series` label sets; further ones
  share one series whose labels are all `_OVERFLOW`. `fastperf_metric_overflow_total` counts these observations, with
  the label that did it.
- **Native histograms.** There are none: prometheus_client (0.26) has neither a histogram that counts in exponential
  buckets nor the protobuf format, in which alone Prometheus takes them from a page. Nor can a push make exponential
  ones, since all that is kept of an observation is its bucket, so
  `OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION` has no effect. What works is that Prometheus stores these
  histograms as native ones with their own bounds, one series in place of one for each bucket:
  `convert_classic_histograms_to_nhcb: true` in its `scrape_configs`. The shipped rules and dashboards read the buckets;
  leave `always_scrape_classic_histograms: true` beside it while you use them. Finer bounds are [a setting](#buckets).
- **Several workers.** One scrape answers for [all workers](workers.md). Counters and histograms are summed, those of
  workers that have ended included. Gauges are those of the living, merged as the column *Workers* says: their sum,
  the highest or lowest value, or one series for each with the label `worker`, which a service in one process lacks.
"""

BUCKETS_HEAD: Final = """\
Upper bounds, in the unit of the metric's name. `OTEL_FASTPERF_METRICS_BUCKETS`, or
`Settings(metrics={"buckets": {"http_server_request_duration_seconds": (0.05, 0.1, 0.3, 0.5, 1)}})`, sets others, for
the page and for OTLP alike. What depends on them:

- Quantiles are as exact as the bounds around them, in reports, dashboards and alerts. Each bound is one more series for
  each combination of labels.
- A threshold of a latency objective (`slo-targets.yml`) must be a bound of `http_server_request_duration_seconds`. The
  one that is shipped is 0.5: keep it among yours, or change the threshold. Otherwise requests cannot be counted against
  it, and `FastperfSloWithoutBucket` fires. `otel-fastperf stack init --latency-threshold` knows the bounds below only;
  write another one into the file by hand.
- `FastperfEventLoopLag` takes a quantile of `fastperf_event_loop_lag_seconds`, and compares it with 0.1: with no bounds
  around that it is wrong.
- All processes of a service need the same bounds. While old and new ones run side by side, Prometheus' quantiles over
  both are wrong, and of workers that answer together, those with other bounds than the first are left out of the
  histogram.
"""

SETTINGS_HEAD: Final = """\
# Settings

Every setting of `setup_telemetry`, with the variables that set it. `make docs` generates this page from
`otel_fastperf/settings.py`.

Arguments, as in `Settings(metrics={"path": "/internal/metrics"})`, take precedence over our variables
(`OTEL_FASTPERF_…`), and these over OpenTelemetry's. If several OpenTelemetry variables set one setting, the last one
listed here wins. An empty variable counts as unset. Lists are separated by commas. Wrong values fail at set-up, with
one message that lists all of them.
"""


MERGED: Final = {"sum": "sum", "max": "highest", "min": "lowest", "worker": "label `worker`"}


def metrics_page() -> Iterator[str]:
    """`docs/metrics.md`, line by line."""
    yield METRICS_HEAD
    for title, metrics in GROUPS.items():
        yield f"## {title}\n"
        yield from table(("Metric", "Type", "Labels", "Workers", "Meaning"), map(metric_row, metrics))
    yield "## Buckets\n"
    yield BUCKETS_HEAD
    histograms = [metric for metrics in GROUPS.values() for metric in metrics if metric.buckets]
    yield from table(
        ("Metric", "Buckets"),
        ((code(metric.name), ", ".join(f"{bound:g}" for bound in metric.buckets)) for metric in histograms),
    )


def metric_row(metric: Metric) -> tuple[str, ...]:
    """A row of a group's table."""
    return code(metric.name), metric.kind, ", ".join(map(code, metric.labels)), MERGED[metric.merge], metric.help


def settings_page() -> Iterator[str]:
    """`docs/settings.md`, line by line."""
    yield SETTINGS_HEAD
    fields = Settings.model_fields
    groups: dict[str, Any] = {name: field.annotation for name, field in fields.items() if is_group(field.annotation)}
    yield "## General\n"
    yield from settings_table("", {name: field for name, field in fields.items() if name not in groups})
    for name, group in groups.items():
        yield f"## `{name}`\n\n{group.__doc__}\n"
        yield from settings_table(f"{name}.", group.model_fields)


def is_group(annotation: Any) -> bool:
    """Whether the annotation is a group of settings rather than the type of a value."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def settings_table(prefix: str, fields: dict[str, FieldInfo]) -> Iterator[str]:
    """The settings of one group; `prefix` is the group's name and a dot."""
    rows = (setting_row(f"{prefix}{name}", field) for name, field in fields.items())
    yield from table(("Setting", "Variables", "Default", "Example", "Meaning"), rows)


def setting_row(path: str, field: FieldInfo) -> tuple[str, ...]:
    """A row of a group's table."""
    variables = [variable for variable, target in (*STANDARD, *OWN.items()) if target == path]
    examples = [code(example) for example in field.examples or ()]
    return (
        code(path),
        "<br>".join(map(code, variables)),
        code(spelled(field.default)),
        ", ".join(examples),
        " ".join((field.description or "", *choices(field.annotation))),
    )


def choices(annotation: Any) -> Iterator[str]:
    """The possible values of a setting, if they are a few words."""
    if get_origin(annotation) is Literal:
        yield f"One of {', '.join(code(choice) for choice in get_args(annotation) if choice)}."


def code(text: str) -> str:
    """Format as code; empty text stays empty."""
    return f"`{text}`" if text else ""


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A Markdown table and the empty line after it."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    yield ""


def layers() -> str:
    """Return the layers of the package, highest first, as a Markdown table."""
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = ((str(number), layer) for number, layer in enumerate(contract["layers"], 1))
    cells = ((number, ", ".join(map(code, layer.split(" | ")))) for number, layer in rows)
    return "\n".join(table(("layer", "modules and packages"), cells))


def with_layers(text: str) -> str:
    """Return CONTRIBUTING.md with its table of layers renewed."""
    head, _, rest = text.partition(LAYERS_BEGIN)
    _, _, tail = rest.partition(LAYERS_END)
    return f"{head}{LAYERS_BEGIN}\n{layers()}\n{LAYERS_END}{tail}"


PAGES: Final[dict[str, Callable[[], Iterator[str]]]] = {"metrics.md": metrics_page, "settings.md": settings_page}


def main() -> None:
    """Write the pages and print which ones changed."""
    for name, page in PAGES.items():
        path, text = FOLDER / name, "\n".join(page())
        changed = not path.exists() or path.read_text() != text
        path.write_text(text)
        print(f"docs/{name}: {'written' if changed else 'is up to date'}")
    contributing = ROOT / "CONTRIBUTING.md"
    contributing.write_text(with_layers(contributing.read_text()))
    semconv.main([])


if __name__ == "__main__":
    main()

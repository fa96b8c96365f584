"""The panels of a dashboard, and their queries as Grafana sends them to Prometheus."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

#: `timeInterval` of the provisioned data source, in seconds
SCRAPE_SECONDS: Final = 15
#: maximum number of points in a graph
MAX_POINTS: Final = 240
_LABEL: Final = re.compile(r"\{\{(\w+)\}\}")
_VARIABLE: Final = re.compile(r"\$(\w+)|\$\{(\w+)(?::\w+)?\}")


def flat(board: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Rows and panels, including the panels of collapsed rows."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", ()) if panel["type"] == "row" else ()


def titles(panel: Mapping[str, Any]) -> list[str]:
    """The columns of a table, as its transformation orders and names them."""
    (organised,) = (one["options"] for one in panel["transformations"] if one["id"] == "organize")
    ordered = sorted(organised["indexByName"], key=organised["indexByName"].__getitem__)
    return [organised["renameByName"][name] for name in ordered]


@dataclass(frozen=True, slots=True)
class Window:
    """A dashboard's time range in Unix seconds, and the values of its variables."""

    start: float
    end: float
    variables: Mapping[str, str]

    @property
    def step(self) -> int:
        """Seconds between points: `$__interval`."""
        return max(SCRAPE_SECONDS, round((self.end - self.start) / MAX_POINTS))

    def substituted(self, text: str) -> str:
        """A query as Grafana sends it; raises KeyError for an unknown variable."""
        values = {
            "__rate_interval": f"{max(self.step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)}s",
            "__interval": f"{self.step}s",
            "__range": f"{round(self.end - self.start)}s",
            "__from": f"{round(self.start * 1000)}",
            **self.variables,
        }
        return _VARIABLE.sub(lambda found: values[found[1] or found[2]], text)


def has_data(url: str, target: Mapping[str, Any], window: Window) -> bool:
    """Whether Prometheus at `url` returns a finite value for a panel's query."""
    series = answered(url, target, window)
    return any(_finite(point) for one in series for point in one.get("values") or [one["value"]])


def answered(url: str, target: Mapping[str, Any], window: Window, *, step: int | None = None) -> list[dict[str, Any]]:
    """What Prometheus at `url` answers to a panel's query; points are `step` seconds apart, else the window's."""
    query = {"query": window.substituted(target["expr"])}
    if target.get("instant"):
        return _result(url, "query", {**query, "time": window.end})
    times: dict[str, object] = {"start": window.start, "end": window.end, "step": step or window.step}
    return _result(url, "query_range", {**query, **times})


@dataclass(frozen=True, slots=True)
class Mark:
    """What an annotation draws: a band between two times in Unix seconds, with a title."""

    title: str
    start: float
    end: float


def marks(url: str, annotation: Mapping[str, Any], window: Window) -> list[Mark]:
    """The marks that Grafana makes of an annotation: neighbouring points of a series are one."""
    step = int(annotation["step"].removesuffix("s"))
    found = []
    for one in answered(url, annotation, window, step=step):
        labels = one["metric"]
        title = _LABEL.sub(lambda name: str(labels.get(name[1], "")), annotation["titleFormat"])  # noqa: B023 - used here
        times = [_time(point, annotation) for point in one["values"] if float(point[1]) > 0]
        found += [Mark(title, *band) for band in _bands(times, step)]
    return sorted(found, key=lambda mark: (mark.start, mark.title))


def _time(point: tuple[float, str], annotation: Mapping[str, Any]) -> float:
    return float(point[1]) / 1000 if annotation["useValueForTime"] == "on" else point[0]


def _bands(times: list[float], step: float) -> Iterator[tuple[float, float]]:
    band: list[float] = []
    for time in times:
        if band and time > band[-1] + step:
            yield band[0], band[-1]
            band = []
        band.append(time)
    if band:
        yield band[0], band[-1]


def _result(url: str, endpoint: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
    with urlopen(f"{url}/api/v1/{endpoint}?{urlencode(parameters)}", timeout=30) as response:
        found: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return found


def _finite(point: tuple[float, str]) -> bool:
    return abs(float(point[1])) < float("inf")

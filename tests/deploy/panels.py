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
_VARIABLE: Final = re.compile(r"\$(\w+)|\$\{(\w+)(?::\w+)?\}")


def flat(board: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Rows and panels, including the panels of collapsed rows."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", ()) if panel["type"] == "row" else ()


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
            **self.variables,
        }
        return _VARIABLE.sub(lambda found: values[found[1] or found[2]], text)


def has_data(url: str, target: Mapping[str, Any], window: Window) -> bool:
    """Whether Prometheus at `url` returns a finite value for a panel's query."""
    query = {"query": window.substituted(target["expr"])}
    if target.get("instant"):
        series = _result(url, "query", {**query, "time": window.end})
        return any(_finite(one["value"]) for one in series)
    series = _result(url, "query_range", {**query, "start": window.start, "end": window.end, "step": window.step})
    return any(_finite(point) for one in series for point in one["values"])


def _result(url: str, endpoint: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
    with urlopen(f"{url}/api/v1/{endpoint}?{urlencode(parameters)}", timeout=30) as response:
        found: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return found


def _finite(point: tuple[float, str]) -> bool:
    return abs(float(point[1])) < float("inf")

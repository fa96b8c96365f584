"""What a panel's queries return: asks Prometheus as Grafana would, with Grafana's variables put in."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

#: `timeInterval` of the provisioned data source, in seconds
SCRAPE_SECONDS: Final = 15
#: points that a graph has at most, about one for three pixels
MOST_POINTS: Final = 240
_VARIABLE: Final = re.compile(r"\$(\w+)|\$\{(\w+)(?::\w+)?\}")
_LABEL: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its name in the legend, its labels, and values by Unix seconds; an instant query has one value."""

    name: str
    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a panel is drawn from: series by the letter of their query, and exemplars as (Unix seconds, value)."""

    series: Mapping[str, tuple[Series, ...]] = field(default_factory=dict)
    exemplars: tuple[tuple[float, float], ...] = ()

    @property
    def every(self) -> list[Series]:
        """All series, in the order of the queries."""
        return [one for group in self.series.values() for one in group]


@dataclass(frozen=True, slots=True)
class Window:
    """The time range of a dashboard, in Unix seconds, and the values of its variables."""

    start: float
    end: float
    variables: Mapping[str, str]

    @property
    def step(self) -> int:
        """Seconds between points: `$__interval`."""
        return max(SCRAPE_SECONDS, round((self.end - self.start) / MOST_POINTS))

    def substituted(self, text: str) -> str:
        """A query as Grafana sends it; raises KeyError for a variable that no one has."""
        values = {
            "__rate_interval": f"{max(self.step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)}s",
            "__interval": f"{self.step}s",
            "__range": f"{round(self.end - self.start)}s",
            **self.variables,
        }
        return _VARIABLE.sub(lambda found: values[found[1] or found[2]], text)


class Prometheus:
    """A server, by its address."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def answer(self, panel: Mapping[str, Any], window: Window) -> Answer:
        """Run all queries of a panel; raises ValueError with Prometheus' words where it refuses one."""
        series: dict[str, tuple[Series, ...]] = {}
        exemplars: list[tuple[float, float]] = []
        for target in panel.get("targets", ()):
            expr = window.substituted(target["expr"])
            series[target["refId"]] = tuple(self._series(expr, target, window))
            if target.get("exemplar"):
                exemplars += self._exemplars(expr, window)
        return Answer(series, tuple(exemplars))

    def newest(self, expr: str) -> list[dict[str, str]]:
        """Label sets of an instant query, now."""
        return [found["metric"] for found in self._get("query", query=expr)["result"]]

    def _series(self, expr: str, target: Mapping[str, Any], window: Window) -> list[Series]:
        if target.get("instant"):
            found = self._get("query", query=expr, time=window.end)["result"]
            read = [_read(one, [one["value"]], target) for one in found]
        else:
            asked = {"start": window.start, "end": window.end, "step": window.step}
            read = [
                _read(one, one["values"], target) for one in self._get("query_range", query=expr, **asked)["result"]
            ]
        return [one for one in read if one.points]

    def _exemplars(self, expr: str, window: Window) -> list[tuple[float, float]]:
        found = self._get("query_exemplars", query=expr, start=window.start, end=window.end)
        listed = [one for series in found for one in series["exemplars"]]
        return [(float(one["timestamp"]), float(one["value"])) for one in listed]

    def _get(self, what: str, **parameters: object) -> Any:
        try:
            with urlopen(f"{self._url}/api/v1/{what}?{urlencode(parameters)}", timeout=30) as response:  # noqa: S310
                return json.load(response)["data"]
        except HTTPError as error:
            message = f"{error.read().decode(errors='replace')} for {parameters.get('query')}"
            raise ValueError(message) from error


def _read(raw: Mapping[str, Any], points: list[tuple[float, str]], target: Mapping[str, Any]) -> Series:
    labels: dict[str, str] = raw["metric"]
    legend = target.get("legendFormat", "")
    name = _LABEL.sub(lambda found: labels.get(found[1], ""), legend).strip() if legend else _described(labels)
    numbers = ((float(at), float(value)) for at, value in points)
    return Series(name, labels, tuple((at, value) for at, value in numbers if abs(value) < float("inf")))


def _described(labels: Mapping[str, str]) -> str:
    inside = ", ".join(f'{name}="{value}"' for name, value in labels.items() if name != "__name__")
    return f"{labels.get('__name__', '')}{{{inside}}}"

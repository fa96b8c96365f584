"""Values of the time between two scrapes of `/metrics`: increases, rates, histograms."""

from collections.abc import Sequence
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

from otel_fastperf.report.histograms import EMPTY, Histogram, Samples, histograms


class Page(Samples):
    """The page of one scrape."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        super().__init__((each.name, each.labels, each.value) for family in families for each in family.samples)


class Window:
    """The time between the first and the last of several scrapes."""

    def __init__(self, times: Sequence[float], pages: Sequence[Page]) -> None:
        """Take at least two pages and the time of each, in seconds."""
        self.times = times
        self.pages = pages

    @property
    def seconds(self) -> float:
        """Length of the window in seconds."""
        return self.times[-1] - self.times[0]

    def increase(self, name: str, *by: str, **match: str) -> dict[tuple[str, ...], float]:
        """Increase of a counter, by labels."""
        first = self.pages[0].total(name, by, match)
        last = self.pages[-1].total(name, by, match)
        return {key: value - first.get(key, 0.0) for key, value in last.items()}

    def histograms(self, name: str, *by: str, **match: str) -> dict[tuple[str, ...], Histogram]:
        """Histograms of the observations within the window, by labels; empty ones are omitted."""
        buckets = self.increase(f"{name}_bucket", *by, "le", **match)
        return histograms(buckets, self.increase(f"{name}_sum", *by, **match))

    def histogram(self, name: str, **match: str) -> Histogram:
        """One histogram over all labels; empty without observations."""
        return self.histograms(name, **match).get((), EMPTY)

    def values(self, name: str, **match: str) -> list[float]:
        """Values of a gauge, one for each scrape that has it."""
        totals = (page.total(name, (), match) for page in self.pages)
        return [total[()] for total in totals if total]

    def rates(self, name: str) -> list[float]:
        """Increase of a counter per second, from scrape to scrape."""
        counter = zip(self.times, self.pages, strict=True)
        points = [(at, page.total(name, (), {}).get((), 0.0)) for at, page in counter]
        return [(after - before) / (end - start) for (start, before), (end, after) in pairwise(points) if end > start]

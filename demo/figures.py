"""Figures from pages of `/metrics`, of the time between two of them: increases, rates, histograms."""

from collections.abc import Sequence
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

from otel_fastperf.report.histograms import EMPTY, Histogram, Samples, histograms


class Page(Samples):
    """One scrape."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        super().__init__((each.name, each.labels, each.value) for family in families for each in family.samples)


class Window:
    """What happened between the first and the last of several scrapes."""

    def __init__(self, times: Sequence[float], pages: Sequence[Page]) -> None:
        """`times` are seconds, one for each page; there are at least two."""
        self.times = times
        self.pages = pages

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return self.times[-1] - self.times[0]

    def increase(self, name: str, *by: str, **match: str) -> dict[tuple[str, ...], float]:
        """How much counters grew, by labels."""
        first = self.pages[0].total(name, by, match)
        last = self.pages[-1].total(name, by, match)
        return {key: value - first.get(key, 0.0) for key, value in last.items()}

    def histograms(self, name: str, *by: str, **match: str) -> dict[tuple[str, ...], Histogram]:
        """Histograms of what was observed in the window, by labels; those without an observation are left out."""
        buckets = self.increase(f"{name}_bucket", *by, "le", **match)
        return histograms(buckets, self.increase(f"{name}_sum", *by, **match))

    def histogram(self, name: str, **match: str) -> Histogram:
        """The same over all labels; empty without an observation."""
        return self.histograms(name, **match).get((), EMPTY)

    def values(self, name: str, **match: str) -> list[float]:
        """A gauge in each scrape that has it."""
        totals = (page.total(name, (), match) for page in self.pages)
        return [total[()] for total in totals if total]

    def rates(self, name: str) -> list[float]:
        """A counter's increase per second, from scrape to scrape."""
        counter = zip(self.times, self.pages, strict=True)
        points = [(at, page.total(name, (), {}).get((), 0.0)) for at, page in counter]
        return [(after - before) / (end - start) for (start, before), (end, after) in pairwise(points) if end > start]

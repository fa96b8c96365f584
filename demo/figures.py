"""Figures from pages of `/metrics`, computed as Prometheus computes them: increases, rates, quantiles of histograms."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]


class Page:
    """One scrape: samples by name."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def samples(self, name: str, match: Labels) -> Iterator[tuple[Labels, float]]:
        """Samples of this name whose labels are as in `match`."""
        for labels, value in self._samples.get(name, ()):
            if all(labels.get(label) == wanted for label, wanted in match.items()):
                yield labels, value

    def total(self, name: str, by: Sequence[str], match: Labels) -> dict[tuple[str, ...], float]:
        """Samples summed by the values of the labels in `by`."""
        sums: dict[tuple[str, ...], float] = defaultdict(float)
        for labels, value in self.samples(name, match):
            sums[tuple(labels.get(label, "") for label in by)] += value
        return dict(sums)


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile as far as buckets tell it.

    `sign` is `<` in the lowest bucket, `>` beyond the highest bound, `≤` when the value is the bound of a bucket.
    """

    value: float
    sign: str = ""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations by bucket: `counts[i]` of them were at most `bounds[i]`. The last bound is infinite."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    sum: float

    @property
    def count(self) -> float:
        """All observations."""
        return self.counts[-1] if self.counts else 0.0

    @property
    def mean(self) -> float | None:
        """Mean observation; None without any."""
        return self.sum / self.count if self.count else None

    @property
    def highest(self) -> Quantile | None:
        """The bound that no observation was over; None without any."""
        lower = 0.0
        for bound, cumulative in zip(self.bounds, self.counts, strict=True):
            if cumulative and cumulative == self.count:
                return Quantile(lower, ">") if math.isinf(bound) else Quantile(bound, "≤")
            lower = bound
        return None

    def quantile(self, share: float) -> Quantile | None:
        """The value that `share` of the observations are not over, linear within a bucket; None without any."""
        rank, below, lower = share * self.count, 0.0, 0.0
        for number, (bound, cumulative) in enumerate(zip(self.bounds, self.counts, strict=True)):
            if cumulative >= rank and cumulative > below:
                if math.isinf(bound):
                    return Quantile(lower, ">")
                if number == 0:
                    return Quantile(bound, "<")
                return Quantile(lower + (bound - lower) * (rank - below) / (cumulative - below))
            below, lower = cumulative, bound
        return None


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
        sums = self.increase(f"{name}_sum", *by, **match)
        counts: dict[tuple[str, ...], dict[float, float]] = defaultdict(dict)
        for (*key, bound), count in self.increase(f"{name}_bucket", *by, "le", **match).items():
            counts[tuple(key)][float(bound)] = count
        histograms = {
            key: Histogram(tuple(sorted(buckets)), tuple(buckets[bound] for bound in sorted(buckets)), sums[key])
            for key, buckets in counts.items()
        }
        return {key: histogram for key, histogram in histograms.items() if histogram.count}

    def histogram(self, name: str, **match: str) -> Histogram:
        """The same over all labels; empty without an observation."""
        return self.histograms(name, **match).get((), Histogram((), (), 0.0))

    def values(self, name: str, **match: str) -> list[float]:
        """A gauge in each scrape that has it."""
        totals = (page.total(name, (), match) for page in self.pages)
        return [total[()] for total in totals if total]

    def rates(self, name: str) -> list[float]:
        """A counter's increase per second, from scrape to scrape."""
        counter = zip(self.times, self.pages, strict=True)
        points = [(at, page.total(name, (), {}).get((), 0.0)) for at, page in counter]
        return [(after - before) / (end - start) for (start, before), (end, after) in pairwise(points) if end > start]

"""Sums and quantiles from samples of metrics, computed like Prometheus does."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Labels: TypeAlias = Mapping[str, str]
#: name (`…_total`, `…_bucket`, `…_sum`), labels, value
Sample: TypeAlias = tuple[str, Labels, float]


class Samples:
    """The samples of one scrape, by name."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for name, labels, value in samples:
            self._samples[name].append((labels, value))

    def samples(self, name: str, match: Labels) -> Iterator[tuple[Labels, float]]:
        """Samples of this name whose labels equal those in `match`."""
        for labels, value in self._samples.get(name, ()):
            if all(labels.get(label) == wanted for label, wanted in match.items()):
                yield labels, value

    def total(self, name: str, by: Sequence[str], match: Labels) -> dict[tuple[str, ...], float]:
        """Samples summed by the values of the labels in `by`."""
        sums: dict[tuple[str, ...], float] = defaultdict(float)
        for labels, value in self.samples(name, match):
            sums[tuple(labels.get(label, "") for label in by)] += value
        return dict(sums)

    def histograms(self, name: str, *by: str, **match: str) -> dict[tuple[str, ...], "Histogram"]:
        """Histograms by labels, without empty ones."""
        buckets = self.total(f"{name}_bucket", (*by, "le"), match)
        return histograms(buckets, self.total(f"{name}_sum", by, match))


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile with the precision of buckets.

    `sign` is `<` in the lowest bucket, `>` beyond the highest bound, `≤` if the value is the bound of a bucket.
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
        """The number of observations."""
        return self.counts[-1] if self.counts else 0.0

    @property
    def mean(self) -> float | None:
        """The mean; None without observations."""
        return self.sum / self.count if self.count else None

    @property
    def highest(self) -> Quantile | None:
        """The bound that no observation exceeded; None without observations."""
        lower = 0.0
        for bound, cumulative in zip(self.bounds, self.counts, strict=True):
            if cumulative and cumulative == self.count:
                return Quantile(lower, ">") if math.isinf(bound) else Quantile(bound, "≤")
            lower = bound
        return None

    def quantile(self, share: float) -> Quantile | None:
        """The value that `share` of the observations do not exceed, linear in a bucket; None without observations."""
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


#: without observations
EMPTY: Final = Histogram((), (), 0.0)


def histograms(
    buckets: Mapping[tuple[str, ...], float], sums: Mapping[tuple[str, ...], float]
) -> dict[tuple[str, ...], Histogram]:
    """Histograms by labels, from cumulative counts by labels and `le`; without empty ones."""
    counts: dict[tuple[str, ...], dict[float, float]] = defaultdict(dict)
    for (*key, bound), count in buckets.items():
        counts[tuple(key)][float(bound)] = count
    found = {
        key: Histogram(tuple(sorted(those)), tuple(those[bound] for bound in sorted(those)), sums[key])
        for key, those in counts.items()
    }
    return {key: histogram for key, histogram in found.items() if histogram.count}

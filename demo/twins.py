"""What a run has measured of each faulty endpoint and its fixed twin: pure functions from a capture."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from demo.capture import Capture
from demo.catalogue import CATALOGUE, Also, Bottleneck
from demo.scrapes import Window
from otel_fastperf.report import formatting as words

REQUESTS: Final = "http_server_request_duration_seconds"
STATEMENTS: Final = "fastperf_request_db_statements"


@dataclass(frozen=True, slots=True)
class Twins:
    """One pair. Times are means in seconds; unknown values are None.

    Attributes:
        bottleneck: The pair.
        slow: Duration of the faulty endpoint's requests.
        fast: Duration of its twin's.
        worse: What else the fault makes worse: see `Also`.
        better: The same of the twin.
    """

    bottleneck: Bottleneck
    slow: float | None
    fast: float | None
    worse: float | None = None
    better: float | None = None

    @property
    def also(self) -> str:
        """`51 → 2 statements`, `others 201 ms → 12 ms`, `0% → 97% hits`."""
        if self.worse is None or self.better is None:
            return ""
        match self.bottleneck.also:
            case Also.NOTHING:
                return ""
            case Also.STATEMENTS:
                return f"{self.worse:.0f} → {self.better:.0f} statements"
            case Also.OTHERS:
                return f"others {words.seconds(self.worse)} → {words.seconds(self.better)}"
            case Also.HITS:
                return f"{self.worse:.0%} → {self.better:.0%} hits"
            case Also.KEPT:
                return f"keeps {self.worse:.0f} → {self.better:.0f} MiB"


def measured_twins(capture: Capture, window: Window) -> Iterator[Twins]:
    """The pairs of the catalogue that were called."""
    durations = window.histograms(REQUESTS, "http_route")
    figures: Mapping[Also, Mapping[str, float]] = {
        Also.NOTHING: {},
        Also.STATEMENTS: _statements(window),
        Also.OTHERS: capture.others,
        Also.HITS: _hit_ratios(window),
        Also.KEPT: capture.kept,
    }
    for one in CATALOGUE:
        slow, fast = (durations.get((path,)) for path in (one.faulty, one.fixed))
        if slow is not None:
            known = figures[one.also]
            yield Twins(
                one, slow.mean, None if fast is None else fast.mean, known.get(one.faulty), known.get(one.fixed)
            )


def _statements(window: Window) -> dict[str, float]:
    means = {route: histogram.mean for (route,), histogram in window.histograms(STATEMENTS, "http_route").items()}
    return {route: mean for route, mean in means.items() if mean is not None}


def _hit_ratios(window: Window) -> dict[str, float]:
    """By the path of the endpoint that uses the cache."""
    hits, misses = (window.increase(f"fastperf_cache_{name}_total", "cache") for name in ("hits", "misses"))
    ratios = {}
    for one in CATALOGUE:
        for path, cache in zip((one.faulty, one.fixed), one.caches, strict=False):
            found, missed = (counts.get((f"demo.bottlenecks.{cache}",), 0.0) for counts in (hits, misses))
            if found + missed:
                ratios[path] = found / (found + missed)
    return ratios

"""What the stack needs for a number of services, from the figures that `benchmarks.capacity` measured: a table.

    python -m benchmarks.sizes

`docs/scale.md` has the table, and `tests/test_benchmarks.py` compares the two.
"""

from collections.abc import Iterator
from typing import Final

#: rounded results of `python -m benchmarks.capacity` on 2 cores that were busy with other work, so careful ones
COLLECTOR_SPANS_PER_CORE: Final = 17_000
JAEGER_SPANS_PER_CORE: Final = 2_300
DISK_PER_SPAN: Final = 1_550
MEMORY_PER_SERIES: Final = 1_500
DISK_PER_SAMPLE: Final = 2.2

# A service, as assumed: two workers, ten requests per second in all, four spans each, ten routes in use.
REQUESTS_PER_SERVICE: Final = 10
SPANS_PER_REQUEST: Final = 4
SERIES_PER_SERVICE: Final = 2 * (200 + 10 * 70)
SCRAPE_SECONDS: Final = 15
#: a server that is busy for half of the time has room for peaks
BUSY: Final = 0.5
TRACE_DAYS: Final = 3
METRIC_DAYS: Final = 35
_DAY: Final = 86_400
_SIZES: Final = (100, 1_000, 10_000)


def rows(services: int) -> dict[str, str]:
    """What so many services need: {what: how much}."""
    requests = services * REQUESTS_PER_SERVICE
    spans = requests * SPANS_PER_REQUEST
    series = services * SERIES_PER_SERVICE
    samples = series / SCRAPE_SECONDS
    return {
        "requests per second": f"{requests:,}",
        "spans per second": f"{spans:,}",
        "collectors: cores": _cores(spans / COLLECTOR_SPANS_PER_CORE),
        "Jaeger with Badger: cores": _cores(spans / JAEGER_SPANS_PER_CORE),
        f"traces: disk, {TRACE_DAYS} days of all": _bytes(spans * DISK_PER_SPAN * TRACE_DAYS * _DAY),
        f"traces: disk, {TRACE_DAYS} days of 10 %": _bytes(spans * DISK_PER_SPAN * TRACE_DAYS * _DAY / 10),
        "series": f"{series:,}",
        "samples per second": f"{samples:,.0f}",
        "Prometheus: memory of the series": _bytes(series * MEMORY_PER_SERIES),
        f"Prometheus: disk, {METRIC_DAYS} days": _bytes(samples * DISK_PER_SAMPLE * METRIC_DAYS * _DAY),
    }


def table() -> Iterator[str]:
    """The table in Markdown, line by line."""
    columns = [rows(services) for services in _SIZES]
    yield "| | " + " | ".join(f"{services:,} services" for services in _SIZES) + " |"
    yield "|---|" + "---:|" * len(_SIZES)
    for what in columns[0]:
        yield f"| {what} | " + " | ".join(column[what] for column in columns) + " |"


def _cores(busy: float) -> str:
    needed = busy / BUSY
    return f"{needed:.1f}" if needed < 10 else f"{needed:,.0f}"  # noqa: PLR2004 - digits


def _bytes(number: float) -> str:
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 1000:  # noqa: PLR2004 - as the units say
            return f"{number:,.2g} {unit}" if number < 10 else f"{number:,.0f} {unit}"  # noqa: PLR2004 - digits
    return f"{number / 1000:,.2g} TB" if number < 10_000 else f"{number / 1000:,.0f} TB"  # noqa: PLR2004 - digits


if __name__ == "__main__":
    print("\n".join(table()))

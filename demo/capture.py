"""The data of the summary, read from a running service as Prometheus and a collector would read it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Final, Self

import httpx

from demo.span_route import PATH, SpanRecord
from otel_fastperf import Report

SCRAPE_SECONDS: Final = 1.0
_TIMEOUT: Final = 60.0

#: a page of `/metrics`, and when it was read, in seconds since the first
Scrape = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Capture:
    """Everything that the summary shows."""

    #: `SQLite` or `PostgreSQL`
    database: str
    #: requests that the client sent, by method and route: `GET /products/{product_id}`
    sent: dict[str, int]
    scrapes: tuple[Scrape, ...]
    spans: tuple[SpanRecord, ...]
    #: the endpoint to which spans were exported; then none are captured
    exported_to: str = ""
    #: seconds that the longest of other requests took while a path was called, in each visit or more, for some paths
    others: dict[str, float] = field(default_factory=dict)
    #: MiB that the caches of some paths keep in the end
    kept: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Serialize for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the output of `to_json`."""
        values = json.loads(text)
        values["scrapes"] = tuple((at, page) for at, page in values["scrapes"])
        values["spans"] = tuple(SpanRecord(**span) for span in values["spans"])
        return cls(**values)


@asynccontextmanager
async def scraping(url: str) -> AsyncIterator[list[Scrape]]:
    """Read `/metrics` before, every second during, and after the `with` block; then the list is complete."""
    scrapes: list[Scrape] = []
    done = asyncio.Event()
    started = time.monotonic()

    async def scrape() -> None:
        page = await client.get("/metrics")
        scrapes.append((time.monotonic() - started, page.raise_for_status().text))

    async def scrape_until_done() -> None:
        while not done.is_set():
            await scrape()
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), SCRAPE_SECONDS)

    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT) as client:
        await scrape()
        scraper = asyncio.create_task(scrape_until_done())
        try:
            yield scrapes
            done.set()
            # overlapping scrapes share one page, so the last one must not overlap
            await scraper
            await scrape()
        finally:
            scraper.cancel()
            await asyncio.gather(scraper, return_exceptions=True)


async def fetch_spans(url: str) -> tuple[SpanRecord, ...]:
    """Return the finished spans that the service has kept."""
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT) as client:
        spans = (await client.get(PATH)).raise_for_status().json()
    return tuple(SpanRecord(**span) for span in spans)


async def fetch_kept(url: str) -> dict[str, float]:
    """Return the MiB that the service's caches of pages keep, by the path of their endpoint."""
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT) as client:
        pages: dict[str, float] = (await client.get("/demo/kept")).raise_for_status().json()
    return pages


async def fetch_diagnosis(url: str) -> Report:
    """Return the service's report, as `otel-fastperf doctor` requests it."""
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT) as client:
        answer = await client.get("/debug/fastperf", params={"format": "json"})
    return Report.from_json(answer.raise_for_status().text)

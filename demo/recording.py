"""What a report is made of, taken from a running service as Prometheus and a collector would take it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Final, Self

import httpx

from demo.spans import PATH, SpanRecord
from otel_fastperf import Report

SCRAPE_SECONDS: Final = 1.0
_TIMEOUT: Final = 60.0

#: a page of `/metrics`, and when it was read, in seconds since the first
Scrape = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Recording:
    """All that a report is made of."""

    #: `SQLite` or `PostgreSQL`
    database: str
    #: requests the client sent, by method and route: `GET /products/{product_id}`
    sent: dict[str, int]
    scrapes: tuple[Scrape, ...]
    spans: tuple[SpanRecord, ...]
    #: where spans went instead, when they were exported
    exported_to: str = ""

    def to_json(self) -> str:
        """As `from_json` takes it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, recorded: str) -> Self:
        """What `to_json` wrote."""
        values = json.loads(recorded)
        values["scrapes"] = tuple((at, page) for at, page in values["scrapes"])
        values["spans"] = tuple(SpanRecord(**span) for span in values["spans"])
        return cls(**values)


@asynccontextmanager
async def scraping(url: str) -> AsyncIterator[list[Scrape]]:
    """Read `/metrics` before, every second, and after; the list is complete when the block is left."""
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
            # A page that was asked for before is not the last word: scrapes that overlap share one.
            await scraper
            await scrape()
        finally:
            scraper.cancel()
            await asyncio.gather(scraper, return_exceptions=True)


async def fetch_spans(url: str) -> tuple[SpanRecord, ...]:
    """The finished spans the service has kept."""
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT) as client:
        spans = (await client.get(PATH)).raise_for_status().json()
    return tuple(SpanRecord(**span) for span in spans)


async def fetch_diagnosis(url: str) -> Report:
    """What the service says of itself, as `otel-fastperf doctor` asks for it."""
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT) as client:
        answer = await client.get("/debug/fastperf", params={"format": "json"})
    return Report.from_json(answer.raise_for_status().text)

"""Pages of megabytes are sent to many scrapers at once, in pieces that leave the event loop time for requests."""

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any

import pytest

from otel_fastperf.exposition import responses
from otel_fastperf.exposition.responses import Pace, Page

SCOPE = {"method": "GET"}
PAGE = Page.of(200, bytes(1_000_000))
Message = MutableMapping[str, Any]


class Scraper:
    """Takes what it is sent."""

    def __init__(self) -> None:
        self.body = b""
        self.pieces = 0

    async def take(self, message: Message) -> None:
        self.body += message.get("body", b"")
        self.pieces += "body" in message


@pytest.mark.anyio
async def test_pieces_for_many_scrapers_follow_each_other_with_time_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    delays: list[float] = []

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    pace, scrapers = Pace(), [Scraper() for _ in range(20)]
    for scraper in scrapers:
        await PAGE.send(SCOPE, scraper.take, pace)
    assert {scraper.body for scraper in scrapers} == {PAGE.body}
    pieces = sum(scraper.pieces for scraper in scrapers)
    assert pieces > 200
    # the clock stands still: each piece is due later than the one before
    assert delays == sorted(delays)
    assert len([delay for delay in delays if delay == 0]) < 10
    assert max(delays) > 200 * 0.0002


@pytest.mark.anyio
async def test_a_scraper_that_reads_nothing_holds_up_nobody() -> None:
    async def never(_message: Message) -> None:
        await asyncio.Event().wait()

    pace, scrapers = Pace(), [Scraper() for _ in range(5)]
    stuck = asyncio.create_task(PAGE.send(SCOPE, never, pace))
    await asyncio.gather(*(PAGE.send(SCOPE, scraper.take, pace) for scraper in scrapers))
    assert {scraper.body for scraper in scrapers} == {PAGE.body}
    assert not stuck.done()
    stuck.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize("size", [0, 1, responses._PIECE, responses._PIECE + 1, 3 * responses._PIECE])
async def test_pages_of_any_size_arrive_whole(size: int) -> None:
    page, scraper = Page.of(200, bytes(size)), Scraper()
    await page.send(SCOPE, scraper.take, Pace())
    assert scraper.body == page.body
    await page.send({"method": "HEAD"}, scraper.take, Pace())
    assert scraper.body == page.body

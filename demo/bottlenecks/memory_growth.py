"""`memory_growth`: a cache that never evicts anything, and one that does."""

from functools import lru_cache
from itertools import count
from typing import Final

from fastapi import APIRouter

router = APIRouter(tags=["memory_growth"])

#: lines of a page; each has 64 bytes, so a page has 1 MiB
LINES: Final = 16_384
#: number of pages after which the demo starts over, so that it does not exhaust the machine's memory
MOST_PAGES: Final = 200

pages: Final[dict[str, bytes]] = {}
_visitors: Final = count(1)


@router.get("/slow/memory-growth")
async def page_kept_forever() -> dict[str, int]:
    """Keep each visitor's page forever."""
    visitor = f"visitor {next(_visitors)}"
    if visitor not in pages:
        pages[visitor] = render(visitor)
    size = len(pages[visitor])
    if len(pages) >= MOST_PAGES:
        pages.clear()
    return {"bytes": size}


@router.get("/fast/memory-growth")
async def page_kept_for_a_while() -> dict[str, int]:
    """Keep the latest pages. Each visitor views the page four times."""
    return {"bytes": len(recent_page(f"visitor {next(_visitors) // 4}"))}


@router.get("/demo/kept", include_in_schema=False)
async def kept() -> dict[str, int]:
    """Return how many pages each endpoint keeps."""
    return {"/slow/memory-growth": len(pages), "/fast/memory-growth": recent_page.cache_info().currsize}


@lru_cache(maxsize=4)
def recent_page(visitor: str) -> bytes:
    """Return the visitor's page."""
    return render(visitor)


def render(visitor: str) -> bytes:
    """Render a page of 1 MiB."""
    return f"{f'<li>offer for {visitor}':<63}\n".encode() * LINES

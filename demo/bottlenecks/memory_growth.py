"""`memory_growth`: a cache that forgets nothing, and one that does."""

from functools import lru_cache
from itertools import count
from typing import Final

from fastapi import APIRouter

router = APIRouter(tags=["memory_growth"])

#: 512 KiB each
LINES: Final = 8_192
#: where the demo starts over: it should not take its machine down
MOST_PAGES: Final = 400

pages: Final[dict[str, bytes]] = {}
_visitors: Final = count(1)


@router.get("/slow/memory-growth")
async def page_for_ever() -> dict[str, int]:
    """Keep each visitor's page for ever."""
    visitor = f"visitor {next(_visitors)}"
    if visitor not in pages:
        pages[visitor] = render(visitor)
    size = len(pages[visitor])
    if len(pages) >= MOST_PAGES:
        pages.clear()
    return {"bytes": size}


@router.get("/fast/memory-growth")
async def page_for_a_while() -> dict[str, int]:
    """Keep the last pages. Each visitor looks at theirs four times."""
    return {"bytes": len(recent_page(f"visitor {next(_visitors) // 4}"))}


@lru_cache(maxsize=4)
def recent_page(visitor: str) -> bytes:
    """The visitor's page."""
    return render(visitor)


def render(visitor: str) -> bytes:
    """A page of 512 KiB."""
    return b"\n".join(f"<li>offer for {visitor}".ljust(63).encode() for _ in range(LINES)) + b"\n"

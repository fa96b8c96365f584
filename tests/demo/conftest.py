"""The shop on SQLite and on PostgreSQL, on the tests' event loop and without telemetry.

All tests of a module share one shop, because it takes seconds to start.
"""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from sqlalchemy import URL, make_url

from demo.seed import clear
from demo.service import create_app
from tests.postgresql import postgresql_url

__all__ = ["postgresql_url"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """asyncio, with one event loop for all tests of a module."""
    return "asyncio"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """An empty database."""
    if request.param == "sqlite":
        yield URL.create("sqlite", database=str(tmp_path_factory.mktemp("shop") / "shop.sqlite3"))
        return
    server = make_url(request.getfixturevalue("postgresql_url"))
    clear(server)
    yield server
    clear(server)


@pytest.fixture(scope="module")
async def shop(url: URL) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running shop; an exception in the app becomes a 500, like behind a server."""
    app = create_app(url)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        yield client

"""The shop's FastAPI app without telemetry, which `demo.app` adds."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio.to_thread
from fastapi import FastAPI
from sqlalchemy import URL

from demo.bottlenecks import (
    blocking_call,
    cache_inefficient,
    client_per_request,
    gc_pause,
    large_result,
    lock_wait,
    memory_growth,
    n_plus_one,
    pool_wait,
    serial_calls,
    slow_commit,
    slow_dependency,
    slow_middleware,
    slow_query,
    sync_db_on_loop,
    threadpool_wait,
)
from demo.database import Database, database_url
from demo.partner import partners
from demo.routers import clock, failures, orders, products, reports, users
from demo.seed import seed

#: threads for `def` endpoints; few, so that `bottlenecks.threadpool_wait` needs few requests (anyio's default is 40)
THREADS: Final = 4

_ROUTERS: Final = (
    *(users.router, products.router, orders.router, reports.router, clock.router, failures.router),
    *(n_plus_one.router, blocking_call.router, sync_db_on_loop.router, slow_query.router, pool_wait.router),
    *(threadpool_wait.router, slow_middleware.router, memory_growth.router, gc_pause.router, cache_inefficient.router),
    *(slow_dependency.router, serial_calls.router, client_per_request.router, slow_commit.router, lock_wait.router),
    large_result.router,
)


def create_app(url: URL | None = None) -> FastAPI:
    """Make the service for this database, by default that of `DATABASE_URL`. At start-up it connects, and seeds it."""
    app = FastAPI(title="Shop", summary="A small shop with the bottlenecks of FastAPI services.", lifespan=_lifespan)
    app.state.database = Database(url or database_url())
    slow_middleware.add_middlewares(app)
    for router in _ROUTERS:
        app.include_router(router)
    app.add_api_route("/health", _health, tags=["health"])
    return app


async def _health() -> dict[str, str]:
    return {"status": "ok"}


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    database: Database = app.state.database
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    await anyio.to_thread.run_sync(seed, database.url)
    # endpoints that burn CPU must take equally long on every machine
    app.state.shipping_routes = cache_inefficient.calibrated_routes()
    app.state.slow_query_orders = await anyio.to_thread.run_sync(slow_query.calibrated_orders, database.url)
    app.state.sync_db_visits = await anyio.to_thread.run_sync(sync_db_on_loop.calibrated_visits, database.url)
    app.state.large_result_rows = await anyio.to_thread.run_sync(large_result.calibrated_rows, database.url)
    app.state.graph = gc_pause.frozen_graph()
    try:
        async with partners() as app.state.partners:
            yield
    finally:
        gc.unfreeze()
        await database.close()

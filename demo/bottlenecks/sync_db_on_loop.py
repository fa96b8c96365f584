"""`sync_db_on_loop`: a synchronous session in an `async def` endpoint."""

import time
from typing import Final

from fastapi import APIRouter, Request
from sqlalchemy import URL, Select, func, select

from demo.burning import at_speed, calibrated
from demo.database import CurrentDatabase, Session, sync_engine
from demo.models import Visit
from demo.seed import VISITS

router = APIRouter(tags=["sync_db_on_loop"])

#: duration of the statement; the threshold of `sync_db_on_loop` is 0.0005 s, that of `blocking_call` 0.1 s
STATEMENT_SECONDS: Final = 0.01


def _popular(visits: int) -> Select[str, int]:
    """Select the ten pages that had most of the first visits."""
    number = func.count()
    first = select(Visit.path, number).where(Visit.id <= at_speed(visits)).group_by(Visit.path)
    return first.order_by(number.desc(), Visit.path).limit(10)


def calibrated_visits(url: URL) -> int:
    """Measure how many visits this database can count in `STATEMENT_SECONDS`."""
    engine = sync_engine(url)
    with engine.connect() as connection:

        def count(visits: int) -> None:
            connection.execute(_popular(visits)).all()

        visits = calibrated(count, STATEMENT_SECONDS, first=1_000, most=VISITS, clock=time.perf_counter)
    engine.dispose()
    return visits


@router.get("/slow/sync-db-on-loop")
async def popular_pages_sync(database: CurrentDatabase, request: Request) -> dict[str, int]:
    """List the most popular pages; the driver waits for the database on the event loop's thread."""
    with database.blocking_sessions() as session:
        rows = session.execute(_popular(request.app.state.sync_db_visits)).all()
    return {path: number for path, number in rows}  # noqa: C416 - dict() of rows is not typed


@router.get("/fast/sync-db-on-loop")
async def popular_pages_async(session: Session, request: Request) -> dict[str, int]:
    """List the same pages through the async engine."""
    rows = (await session.execute(_popular(request.app.state.sync_db_visits))).all()
    return {path: number for path, number in rows}  # noqa: C416 - dict() of rows is not typed

"""`sync_db_on_loop`: a synchronous session used in an `async def` endpoint."""

from fastapi import APIRouter
from sqlalchemy import Select, func, select

from demo.database import CurrentDatabase, Session
from demo.models import Review

router = APIRouter(tags=["sync_db_on_loop"])


def _by_stars() -> Select[int, int]:
    return select(Review.stars, func.count()).group_by(Review.stars).order_by(Review.stars)


@router.get("/slow/sync-db-on-loop")
async def stars_sync(database: CurrentDatabase) -> dict[int, int]:
    """Reviews by stars; the driver waits for the database on the event loop's thread."""
    with database.blocking_sessions() as session:
        rows = session.execute(_by_stars()).all()
    return {stars: number for stars, number in rows}  # noqa: C416 - dict() of rows is not typed


@router.get("/fast/sync-db-on-loop")
async def stars_async(session: Session) -> dict[int, int]:
    """The same through the async engine."""
    rows = (await session.execute(_by_stars())).all()
    return {stars: number for stars, number in rows}  # noqa: C416 - dict() of rows is not typed

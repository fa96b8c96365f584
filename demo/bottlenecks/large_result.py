"""`large_result`: thousands of rows become objects, only to be counted.

The endpoints are `def`, so that the work is done in a thread: on the event loop it would block every other request too.
"""

from collections import Counter
from typing import Final

from fastapi import APIRouter, Request
from sqlalchemy import URL, func, select
from sqlalchemy.orm import Session

from demo.burning import at_speed, calibrated
from demo.database import CurrentDatabase, sync_engine
from demo.models import Visit
from demo.seed import VISITS

router = APIRouter(tags=["large_result"])

#: CPU time to fetch the rows and to make objects of them; the threshold of `large_result` is 0.1 s, from 5,000 rows on
ROWS_SECONDS: Final = 0.3
FEWEST_ROWS: Final = 6_000
#: pages in the answer
MOST_POPULAR: Final = 10


def calibrated_rows(url: URL) -> int:
    """Measure how many visits can be loaded in `ROWS_SECONDS`."""
    engine = sync_engine(url)
    with Session(engine) as session:

        def load(rows: int) -> None:
            session.scalars(select(Visit).where(Visit.id <= at_speed(rows))).all()
            session.expunge_all()

        rows = calibrated(load, ROWS_SECONDS, first=FEWEST_ROWS // 4, most=VISITS)
    engine.dispose()
    return max(rows, FEWEST_ROWS)


@router.get("/slow/large-result")
def popular_pages_of_rows(database: CurrentDatabase, request: Request) -> dict[str, int]:
    """Load the visits, and count in Python."""
    with database.blocking_sessions() as session:
        visits = session.scalars(select(Visit).where(Visit.id <= at_speed(request.app.state.large_result_rows))).all()
        number = Counter(visit.path for visit in visits)
    return dict(sorted(number.items(), key=lambda page: (-page[1], page[0]))[:MOST_POPULAR])


@router.get("/fast/large-result")
def popular_pages_counted(database: CurrentDatabase, request: Request) -> dict[str, int]:
    """Have the database count."""
    number = func.count()
    with database.blocking_sessions() as session:
        rows = session.execute(
            select(Visit.path, number)
            .where(Visit.id <= at_speed(request.app.state.large_result_rows))
            .group_by(Visit.path)
            .order_by(number.desc(), Visit.path)
            .limit(MOST_POPULAR)
        ).all()
    return {path: number for path, number in rows}  # noqa: C416 - dict() of rows is not typed

"""`slow_query`: a look-up by a column without an index, repeated for each order."""

import time
from typing import Any, Final

from fastapi import APIRouter, Request
from sqlalchemy import URL, ColumnElement, Select, func, select

from demo.burning import calibrated
from demo.database import Session, sync_engine
from demo.models import Order, User, Visit
from demo.schemas import OrderVisits
from demo.seed import ORDERS

router = APIRouter(tags=["slow_query"])

#: duration of all look-ups together; the threshold of `slow_query` is 0.5 s
QUERY_SECONDS: Final = 1.0


def _visits(belongs: ColumnElement[bool], orders: int) -> Select[Any]:
    visits = select(func.count()).select_from(Visit).where(belongs).scalar_subquery()
    return select(Order.id, visits).join(Order.user).where(Order.id <= orders).order_by(Order.id)


def calibrated_orders(url: URL) -> int:
    """Measure for how many orders this database can look up visits by address in `QUERY_SECONDS`."""
    engine = sync_engine(url)
    with engine.connect() as connection:

        def look_up(orders: int) -> None:
            connection.execute(_visits(Visit.email == User.email, orders)).all()

        # SQLite computes in this thread: other processes do not distort its CPU time
        clock = time.thread_time if url.get_backend_name() == "sqlite" else time.perf_counter
        orders = calibrated(look_up, QUERY_SECONDS, first=4, most=ORDERS, clock=clock)
    engine.dispose()
    return orders


@router.get("/slow/slow-query")
async def visits_by_email(session: Session, request: Request) -> list[OrderVisits]:
    """Count the visits of each order's customer, found by address: each look-up reads all of `visits`."""
    rows = await session.execute(_visits(Visit.email == User.email, request.app.state.slow_query_orders))
    return [OrderVisits(order_id=order, visits=visits) for order, visits in rows]


@router.get("/fast/slow-query")
async def visits_by_user(session: Session, request: Request) -> list[OrderVisits]:
    """Count the same visits, found by the indexed column."""
    rows = await session.execute(_visits(Visit.user_id == User.id, request.app.state.slow_query_orders))
    return [OrderVisits(order_id=order, visits=visits) for order, visits in rows]

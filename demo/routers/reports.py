"""Reports: daily sales and a streamed export."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select

from demo.database import CurrentDatabase, Database, Session
from demo.models import Item, Order
from demo.schemas import DaySales

router = APIRouter(prefix="/reports", tags=["reports"])


@router.get("/sales")
async def sales(session: Session, days: Annotated[int, Query(ge=1, le=366)] = 14) -> list[DaySales]:
    """List orders and revenue by day, newest first."""
    day = func.date(Order.placed_at)
    revenue = func.sum(Item.quantity * Item.price_cents)
    by_day = (
        select(day, func.count(Order.id.distinct()), revenue)
        .join(Order.items)
        .group_by(day)
        .order_by(day.desc())
        .limit(days)
    )
    rows = await session.execute(by_day)
    return [DaySales(day=str(day), orders=orders, revenue_cents=cents) for day, orders, cents in rows]


@router.get("/orders.csv", response_class=StreamingResponse)
async def export_orders(database: CurrentDatabase) -> StreamingResponse:
    """Stream all orders as CSV."""
    return StreamingResponse(_csv(database), media_type="text/csv")


async def _csv(database: Database) -> AsyncIterator[str]:
    rows = select(Order.id, Order.user_id, Order.placed_at, Order.status).order_by(Order.id)
    yield "id,user_id,placed_at,status\r\n"
    async with database.sessions() as session:
        result = await session.stream(rows.execution_options(yield_per=500))
        async for chunk in result.partitions():
            text = io.StringIO()
            csv.writer(text).writerows(chunk)
            yield text.getvalue()

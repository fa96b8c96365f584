"""`slow_query`: a look-up by a column without an index, once for each customer."""

from typing import Any

from fastapi import APIRouter
from sqlalchemy import ColumnElement, Select, func, select

from demo.database import Session
from demo.models import User, Visit
from demo.schemas import Visits
from demo.seed import USERS

router = APIRouter(tags=["slow_query"])


def _visits(belongs: ColumnElement[bool]) -> Select[Any]:
    visits = select(func.count()).select_from(Visit).where(belongs).scalar_subquery()
    return select(User.id, visits).where(User.id <= USERS).order_by(User.id)


@router.get("/slow/slow-query")
async def visits_by_email(session: Session) -> list[Visits]:
    """Pages each customer looked at, found by address: `visits` is read from end to end for each of them."""
    rows = await session.execute(_visits(Visit.email == User.email))
    return [Visits(user_id=user, visits=visits) for user, visits in rows]


@router.get("/fast/slow-query")
async def visits_by_user(session: Session) -> list[Visits]:
    """The same by the column that has an index."""
    rows = await session.execute(_visits(Visit.user_id == User.id))
    return [Visits(user_id=user, visits=visits) for user, visits in rows]

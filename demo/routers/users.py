"""Customers and their orders."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from demo.database import Session
from demo.models import Order, User
from demo.schemas import OrderSummary, UserIn, UserOut

router = APIRouter(prefix="/users", tags=["users"])


@router.post("", status_code=201, response_model=UserOut)
async def sign_up(new: UserIn, session: Session) -> User:
    """Create an account."""
    user = User(name=new.name, email=new.email, joined_at=datetime.now(UTC).replace(tzinfo=None))
    session.add(user)
    try:
        await session.commit()
    except IntegrityError as error:
        raise HTTPException(409, "There is an account with this address already.") from error
    return user


@router.get("", response_model=list[UserOut])
async def list_users(
    session: Session, after: int = 0, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Sequence[User]:
    """List customers by number, one page at a time."""
    return (await session.scalars(select(User).where(User.id > after).order_by(User.id).limit(limit))).all()


@router.get("/{user_id}", response_model=UserOut)
async def show_user(user_id: int, session: Session) -> User:
    """Show one customer."""
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404, "There is no such customer.")
    return user


@router.get("/{user_id}/orders", response_model=list[OrderSummary])
async def orders_of_user(user_id: int, session: Session) -> Sequence[Order]:
    """List the customer's orders, newest first."""
    newest = select(Order).where(Order.user_id == user_id).order_by(Order.id.desc()).limit(50)
    return (await session.scalars(newest)).all()

"""`n_plus_one`: the items of fifty orders, fetched order by order, and the stock of ten products, asked one by one."""

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from demo.database import Session
from demo.models import Order
from demo.partner import CurrentPartners
from demo.schemas import OrderOut
from demo.seed import ORDERS

router = APIRouter(tags=["n_plus_one"])

NEWEST: Final = select(Order).where(Order.id <= ORDERS).order_by(Order.id.desc()).limit(50)


@router.get("/slow/n-plus-one", response_model=list[OrderOut])
async def orders_one_by_one(session: Session) -> Sequence[Order]:
    """Return the newest orders of the seed: one statement for the orders, and one for the items of each."""
    orders = (await session.scalars(NEWEST)).all()
    for order in orders:
        await order.awaitable_attrs.items
    return orders


@router.get("/fast/n-plus-one", response_model=list[OrderOut])
async def orders_at_once(session: Session) -> Sequence[Order]:
    """Return the same with two statements."""
    return (await session.scalars(NEWEST.options(selectinload(Order.items)))).all()


#: products whose stock is asked for
PRODUCTS: Final = range(1, 11)


@router.get("/slow/n-plus-one-calls")
async def stock_one_by_one(partners: CurrentPartners) -> list[int]:
    """Ask the warehouse for each product."""
    return [(await partners.client.get(f"/warehouse/{product}")).json() for product in PRODUCTS]


@router.get("/fast/n-plus-one-calls")
async def stock_at_once(partners: CurrentPartners) -> list[int]:
    """Ask the warehouse for all products."""
    answer = await partners.client.get("/warehouse", params={"ids": ",".join(map(str, PRODUCTS))})
    stock: list[int] = answer.json()
    return stock

"""Orders: placing, showing and confirming them by mail."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter, BackgroundTasks, HTTPException
from sqlalchemy import insert, select, update
from sqlalchemy.orm import selectinload

from demo.database import CurrentDatabase, Database, Session
from demo.models import Item, Order, Product, User
from demo.schemas import ItemOut, OrderIn, OrderOut

router = APIRouter(prefix="/orders", tags=["orders"])

#: the mail server's response time in seconds
MAIL_SECONDS: Final = 0.02


@router.post("", status_code=201)
async def place_order(
    new: OrderIn, background: BackgroundTasks, session: Session, database: CurrentDatabase
) -> OrderOut:
    """Place an order; the confirmation mail is sent after the response."""
    if await session.get(User, new.user_id) is None:
        raise HTTPException(404, "There is no such customer.")
    wanted = {item.product_id for item in new.items}
    products = {product.id: product for product in await session.scalars(select(Product).where(Product.id.in_(wanted)))}
    if missing := wanted - products.keys():
        raise HTTPException(404, f"There is no product {min(missing)}.")
    order = Order(user_id=new.user_id, placed_at=datetime.now(UTC).replace(tzinfo=None), status="paid")
    session.add(order)
    await session.flush()
    items = [
        ItemOut(product_id=item.product_id, quantity=item.quantity, price_cents=products[item.product_id].price_cents)
        for item in new.items
    ]
    await session.execute(insert(Item), [{"order_id": order.id, **item.model_dump()} for item in items])
    await session.commit()
    background.add_task(send_confirmation, database, order.id)
    return OrderOut(id=order.id, user_id=order.user_id, placed_at=order.placed_at, status=order.status, items=items)


async def send_confirmation(database: Database, order_id: int) -> None:
    """Pass the mail to the mail server and mark the order as confirmed."""
    await asyncio.sleep(MAIL_SECONDS)
    async with database.sessions.begin() as session:
        await session.execute(update(Order).where(Order.id == order_id).values(status="confirmed"))


@router.get("/{order_id}", response_model=OrderOut)
async def show_order(order_id: int, session: Session) -> Order:
    """Show one order with its items."""
    order = await session.get(Order, order_id, options=[selectinload(Order.items)])
    if order is None:
        raise HTTPException(404, "There is no such order.")
    return order


@router.get("/{order_id}/items", response_model=list[ItemOut])
async def items_of_order(order_id: int, session: Session) -> Sequence[Item]:
    """List the items of one order."""
    return (await session.scalars(select(Item).where(Item.order_id == order_id).order_by(Item.id))).all()

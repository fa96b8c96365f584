"""`slow_commit`: stock is counted in portions of two rows, each in a transaction of its own."""

from typing import Final

from fastapi import APIRouter
from sqlalchemy import bindparam, update

from demo.database import Session
from demo.models import Product

router = APIRouter(tags=["slow_commit"])

#: rows of one portion, and of all
PORTION: Final = 2
ROWS: Final = 100

#: writes what is there already, so that both twins can be called again and again
COUNT: Final = update(Product).where(Product.id == bindparam("counted")).values(stock=Product.stock)
COUNTED: Final = [{"counted": number} for number in range(1, ROWS + 1)]


@router.get("/slow/slow-commit")
async def count_in_portions(session: Session) -> dict[str, int]:
    """Commit each portion."""
    connection = await session.connection()
    for start in range(0, ROWS, PORTION):
        await connection.execute(COUNT, COUNTED[start : start + PORTION])
        await session.commit()
        connection = await session.connection()
    return {"counted": ROWS}


@router.get("/fast/slow-commit")
async def count_at_once(session: Session) -> dict[str, int]:
    """Commit once."""
    connection = await session.connection()
    await connection.execute(COUNT, COUNTED)
    await session.commit()
    return {"counted": ROWS}

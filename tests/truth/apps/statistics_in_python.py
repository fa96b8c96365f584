"""All orders are loaded as entities, and summed in Python."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("large_result", route="/statistics/{customer}", remedy=("fewer|column|stream|pag|aggregat",)),),
    load=(Send("GET /statistics/{n}", times=8, at_once=1), Send("GET /health", times=60, at_once=1, pause=0.05)),
    route="GET /statistics/{customer}",
    databases=("sqlite", "postgresql"),
    quick=True,
    also=("gc_pause",),
)

engine = create_async_engine(os.environ["DATABASE_URL"])
new_session = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]
    total: Mapped[int]
    status: Mapped[str]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(
            Order.__table__.insert(),
            [{"customer": number % 50, "total": number, "status": "paid"} for number in range(20_000)],
        )
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


@app.get("/statistics/{customer}")
async def statistics(customer: int, session: Annotated[AsyncSession, Depends(get_session)]) -> dict[str, int]:
    if os.environ.get("FIXED"):
        total = await session.scalar(select(func.sum(Order.total)).where(Order.customer == customer))
        return {"total": total or 0}
    orders = (await session.scalars(select(Order))).all()  # <- here
    return {"total": sum(order.total for order in orders if order.customer == customer)}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}

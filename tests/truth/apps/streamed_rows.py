"""A CSV export is streamed, and the generator of its rows looks up each row's customer."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import ForeignKey, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("n_plus_one", route="/export", remedy=("join|in_\\(|one (query|statement)|selectinload",)),),
    load=(Send("GET /export", times=15, at_once=2), Send("GET /health", times=30, at_once=1, pause=0.05)),
    route="GET /export",
    databases=("sqlite", "postgresql"),
)

engine = create_async_engine(os.environ["DATABASE_URL"])
new_session = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Sale(Base):
    __tablename__ = "sales"
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int]
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with new_session.begin() as session:
        session.add_all(Customer(id=number, name=f"customer {number}") for number in range(1, 61))
        await session.flush()
        session.add_all(Sale(amount=number, customer_id=number) for number in range(1, 61))
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


async def lines() -> AsyncIterator[str]:
    async with new_session() as session:
        if os.environ.get("FIXED"):
            query = select(Sale.amount, Customer.name).join(Customer, Customer.id == Sale.customer_id)
            for amount, name in (await session.execute(query)).all():
                yield f"{amount},{name}\n"
            return
        for amount, customer_id in (await session.execute(select(Sale.amount, Sale.customer_id))).all():
            name = await session.scalar(select(Customer.name).where(Customer.id == customer_id))  # <- here
            yield f"{amount},{name}\n"


@app.get("/export")
async def export() -> StreamingResponse:
    return StreamingResponse(lines(), media_type="text/csv")


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}

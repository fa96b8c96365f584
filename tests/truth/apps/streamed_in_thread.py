"""A `def` endpoint streams a plain generator, which looks up each row's customer in a synchronous session."""

import os
from collections.abc import Iterator
from typing import Final

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("n_plus_one", route="/export", remedy=(r"selectinload|joinedload",)),),
    load=(Send("GET /export", times=12, at_once=2), Send("GET /health", times=30, at_once=1, pause=0.05)),
    databases=("sqlite", "postgresql"),
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"])


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
    customer: Mapped[Customer] = relationship()


Base.metadata.create_all(engine)
with Session(engine) as seeding:
    seeding.add_all(Customer(id=number, name=f"customer {number}") for number in range(1, 51))
    seeding.flush()
    seeding.add_all(Sale(amount=number, customer_id=number) for number in range(1, 51))
    seeding.commit()

app = FastAPI()
setup_telemetry(app)


def lines() -> Iterator[str]:
    query = select(Sale)
    if os.environ.get("FIXED"):
        query = query.options(selectinload(Sale.customer))
    with Session(engine) as session:
        for sale in session.scalars(query).all():
            yield f"{sale.amount},{sale.customer.name}\n"  # <- here


@app.get("/export")
def export() -> StreamingResponse:
    return StreamingResponse(lines(), media_type="text/csv")


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}

"""Orders with their lines: each order's lines are loaded when the response model reads them."""

import os
from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload, sessionmaker

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("n_plus_one", remedy=(r"selectinload\(Order\.lines\)",), route="/orders"),),
    # enough requests that the collections after the start do not matter
    load=(Send("GET /orders", times=60),),
    largest="db|handler",
    databases=("sqlite", "postgresql"),
    quick=True,
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"], pool_size=10)
SessionLocal = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    lines: Mapped[list["Line"]] = relationship()


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    product: Mapped[str]


class LineOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    product: str


class OrderOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    customer: str
    lines: list[LineOut]


Base.metadata.create_all(engine)
with SessionLocal.begin() as seeding:
    for number in range(40):
        seeding.add(Order(customer=f"c{number}", lines=[Line(product=f"p{n}") for n in range(3)]))

app = FastAPI()
setup_telemetry(app)


def get_db() -> Iterator[Session]:
    with SessionLocal() as db:
        yield db


@app.get("/orders")
def list_orders(db: Annotated[Session, Depends(get_db)]) -> list[OrderOut]:
    query = select(Order).limit(40)
    if os.environ.get("FIXED"):
        query = query.options(selectinload(Order.lines))
    orders = db.scalars(query).all()
    return [OrderOut.model_validate(order) for order in orders]  # <- here

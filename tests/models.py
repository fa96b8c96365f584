"""A few mapped classes for tests: customers with orders, orders with items and a note."""

from sqlalchemy import Connection, ForeignKey
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

#: rows per table
ROWS = 8


class Base(AsyncAttrs, DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "fastperf_customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="ada")
    biography: Mapped[str] = mapped_column(deferred=True, default="")
    orders: Mapped[list["Order"]] = relationship(back_populates="customer")


class Order(Base):
    __tablename__ = "fastperf_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("fastperf_customers.id"))
    customer: Mapped[Customer] = relationship(back_populates="orders")
    items: Mapped[list["Item"]] = relationship()
    note: Mapped["Note"] = relationship()


class Item(Base):
    __tablename__ = "fastperf_items"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("fastperf_orders.id"))
    name: Mapped[str] = mapped_column(default="pen")


class Note(Base):
    __tablename__ = "fastperf_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("fastperf_orders.id"))


def fill(connection: Connection) -> None:
    """Recreate the tables with `ROWS` customers, each with one order of one item and a note."""
    Base.metadata.drop_all(connection)
    Base.metadata.create_all(connection)
    with Session(connection) as session:
        for number in range(1, ROWS + 1):
            order = Order(id=number, items=[Item(id=number)], note=Note(id=number))
            session.add(Customer(id=number, orders=[order]))
        session.commit()

"""Seats are booked with SELECT … FOR UPDATE on a primary key, in a transaction that stays open for long. PostgreSQL."""

import os
import time
from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("lock_wait", route="/seats/{seat_id}/book", wrong=(r"\bindex", "LIMIT")),),
    load=(Send("POST /seats/1/book", times=24, at_once=6),),
    largest="db",
    databases=("postgresql",),
    quick=True,
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"], pool_size=20)
SessionLocal = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Seat(Base):
    __tablename__ = "seats"
    id: Mapped[int] = mapped_column(primary_key=True)
    booked: Mapped[int]


Base.metadata.create_all(engine)
with SessionLocal.begin() as seeding:
    seeding.add(Seat(id=1, booked=0))

app = FastAPI()
setup_telemetry(app)


def db() -> Iterator[Session]:
    with SessionLocal() as session:
        yield session


class SeatRepository:
    def __init__(self, session: Annotated[Session, Depends(db)]) -> None:
        self.session = session

    def locked(self, seat_id: int) -> Seat:
        return self.session.scalars(select(Seat).where(Seat.id == seat_id).with_for_update()).one()  # <- here


@app.post("/seats/{seat_id}/book")
def book(seat_id: int, seats: Annotated[SeatRepository, Depends()]) -> dict[str, int]:
    seat = seats.locked(seat_id)
    seat.booked += 1
    if not os.environ.get("FIXED"):
        time.sleep(0.2)
    seats.session.commit()
    return {"booked": seat.booked}

"""A synchronous session, injected into an `async def` endpoint that goes through a service class."""

import os
from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("sync_db_on_loop", remedy=("create_async_engine",), route="/users/search"),),
    load=(Send("GET /users/search?q=ann", times=40, at_once=2),),
    databases=("sqlite", "postgresql"),
    quick=True,
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"], pool_size=10)
SessionLocal = sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


Base.metadata.create_all(engine)
with SessionLocal.begin() as seeding:
    seeding.add_all(User(name=f"{first} {number}") for number in range(5000) for first in ("ann", "bob", "eve"))

app = FastAPI()
setup_telemetry(app)


def get_db() -> Iterator[Session]:
    with SessionLocal() as db:
        yield db


class UserService:
    def __init__(self, db: Annotated[Session, Depends(get_db)]) -> None:
        self.db = db

    def count(self, q: str) -> int:
        query = select(func.count()).select_from(User).where(func.lower(User.name).contains(q.lower()))
        return self.db.scalars(query).one()  # <- here


if os.environ.get("FIXED"):

    @app.get("/users/search")
    def search(q: str, users: Annotated[UserService, Depends()]) -> dict[str, int]:
        return {"found": users.count(q)}

else:

    @app.get("/users/search")
    async def search(q: str, users: Annotated[UserService, Depends()]) -> dict[str, int]:
        return {"found": users.count(q)}

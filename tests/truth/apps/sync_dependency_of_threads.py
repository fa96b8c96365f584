"""A `def` endpoint under an `async def` dependency that asks a synchronous database. Making the endpoint `def` is done."""

import os
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, Header
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(
        Expected("sync_db_on_loop", message=(), remedy=("current_user",), wrong=("make the endpoint `def`",), most=1),
    ),
    load=tuple(
        Send(f"GET /{name}", times=40, at_once=1, headers={"token": "t17000"})
        for name in ("carts", "orders", "points", "coupons", "wishes", "returns", "reviews")
    ),
    databases=("sqlite", "postgresql"),
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"], pool_size=15)
SessionLocal = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Login(Base):
    __tablename__ = "logins"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str]


Base.metadata.create_all(engine)
with SessionLocal.begin() as seeding:
    seeding.add_all(Login(token=f"t{number}") for number in range(20_000))


class Repository:
    """The generic one."""

    def first(self, *criteria):
        with SessionLocal() as session:
            return session.scalars(select(Login).where(*criteria)).first()


logins = Repository()


if os.environ.get("FIXED"):

    def current_user(token: Annotated[str, Header()]) -> int:
        return logins.first(Login.token == token).id

else:

    async def current_user(token: Annotated[str, Header()]) -> int:
        return logins.first(Login.token == token).id  # <- here


User = Annotated[int, Depends(current_user)]
router = APIRouter()


@router.get("/carts")
def carts(user: User) -> dict[str, int]:
    return {"user": user}


@router.get("/orders")
def orders(user: User) -> dict[str, int]:
    return {"user": user}


@router.get("/points")
def points(user: User) -> dict[str, int]:
    return {"user": user}


@router.get("/coupons")
def coupons(user: User) -> dict[str, int]:
    return {"user": user}


@router.get("/wishes")
def wishes(user: User) -> dict[str, int]:
    return {"user": user}


@router.get("/returns")
def returns(user: User) -> dict[str, int]:
    return {"user": user}


@router.get("/reviews")
def reviews(user: User) -> dict[str, int]:
    return {"user": user}


app = FastAPI()
app.include_router(router)
setup_telemetry(app)

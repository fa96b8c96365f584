"""A service loops over a generic repository. The loop is named, be it beside the repository's line."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from otel_fastperf import setup_telemetry
from repository_in_loop.models import Base, Product
from repository_in_loop.service import BasketService, Products
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(
        Expected(
            "n_plus_one", message=("service.py:20|^(?!.*loop at)",), remedy=(r"IN|in_\(",), route="/baskets/total"
        ),
    ),
    load=(Send("POST /baskets/total", times=20, at_once=2, body=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),),
    databases=("sqlite", "postgresql"),
    quick=True,
)

engine = create_async_engine(os.environ["DATABASE_URL"])
new_session = async_sessionmaker(engine)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with new_session.begin() as session:
        session.add_all(Product(name=f"p{number}", price=number) for number in range(30))
    yield


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


async def baskets(session: Annotated[AsyncSession, Depends(get_session)]) -> BasketService:
    return BasketService(Products(session))


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


@app.post("/baskets/total")
async def total(ids: list[int], service: Annotated[BasketService, Depends(baskets)]) -> dict[str, int]:
    return {"total": await service.total(ids)}

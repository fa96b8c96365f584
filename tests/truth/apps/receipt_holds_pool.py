"""A background task keeps its connection while it calls a slow mail service; requests wait for the pool. PostgreSQL."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import httpx
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("pool_wait", line="here", remedy=("shorter|pool_size",)),),
    load=(
        Send("POST /purchases", times=24, at_once=3, pause=0.05),
        Send("GET /stock", times=60, at_once=3, pause=0.05),
    ),
    databases=("postgresql",),
    neighbour=True,
)

engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=3, max_overflow=0)
new_session = async_sessionmaker(engine)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"]) as app.state.mail:
        yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


async def send_receipt(mail: httpx.AsyncClient) -> None:
    async with new_session() as session:
        number = (await session.execute(text("SELECT 42"))).scalar_one()  # <- here
        if os.environ.get("FIXED"):
            await session.close()
        await mail.post("/wait/300", json={"receipt": number})


@app.post("/purchases", status_code=201)
async def purchase(tasks: BackgroundTasks, request: Request) -> dict[str, bool]:
    tasks.add_task(send_receipt, request.app.state.mail)
    return {"sold": True}


@app.get("/stock")
async def stock(session: Annotated[AsyncSession, Depends(get_session)]) -> int:
    return (await session.execute(text("SELECT 7"))).scalar_one()  # <- here

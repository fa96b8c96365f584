"""A service refreshes each object after a change, in a loop over `session.refresh`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("n_plus_one", route="/tasks/done", wrong=("selectinload",)),),
    load=(Send("POST /tasks/done", times=16, at_once=1),),
    databases=("sqlite", "postgresql"),
)

engine = create_async_engine(os.environ["DATABASE_URL"])
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    done: Mapped[bool] = mapped_column(default=False)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with new_session.begin() as session:
        session.add_all(Task(title=f"task {number}") for number in range(40))
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


async def refreshed(session: AsyncSession, tasks: list[Task]) -> list[Task]:
    for task in tasks:
        await session.refresh(task)  # <- here
    return tasks


@app.post("/tasks/done")
async def finish() -> dict[str, int]:
    async with new_session() as session:
        tasks = list((await session.scalars(select(Task))).all())
        if not os.environ.get("FIXED"):
            tasks = await refreshed(session, tasks)
        return {"done": sum(task.done for task in tasks)}

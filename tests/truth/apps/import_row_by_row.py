"""An import that commits after each row."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_commit", route="/import", remedy=("once|one transaction|after the loop|at the end",)),),
    load=(Send("POST /import", times=8, at_once=1, body={"rows": ["a", "b", "c", "d"], "repeat": 40}),),
    also=("n_plus_one",),
    databases=("sqlite", "postgresql"),
)

engine = create_async_engine(os.environ["DATABASE_URL"])
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[str]


class Upload(BaseModel):
    rows: list[str]
    repeat: int = 1


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


async def save_each(session: AsyncSession, rows: list[str]) -> None:
    for row in rows:
        session.add(Row(value=row))
        await session.commit()  # <- here


@app.post("/import")
async def import_rows(upload: Upload) -> dict[str, int]:
    rows = upload.rows * upload.repeat
    async with new_session() as session:
        if os.environ.get("FIXED"):
            session.add_all(Row(value=row) for row in rows)
            await session.commit()
        else:
            await save_each(session, rows)
    return {"imported": len(rows)}

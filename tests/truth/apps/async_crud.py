"""A healthy service: notes with an async session for each request, a repository, and commits. Nothing to find."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("POST /api/notes", times=100, at_once=2, pause=0.01, body={"title": "t", "text": "x" * 200}),
        Send("GET /api/notes", times=100, at_once=2, pause=0.01),
        Send("GET /api/notes/{n}", times=200, at_once=2, pause=0.01),
        Send("GET /api/notes/999999", times=20, at_once=1, pause=0.02),
        Send("GET /nowhere", times=20, at_once=1, pause=0.02),
    ),
    databases=("sqlite", "postgresql"),
    twin=False,
    quick=True,
)

engine = create_async_engine(os.environ["DATABASE_URL"])
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    text: Mapped[str]


class NoteIn(BaseModel):
    title: str
    text: str


class NoteOut(NoteIn):
    model_config = ConfigDict(from_attributes=True)
    id: int


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


class Notes:
    def __init__(self, session: Annotated[AsyncSession, Depends(get_session)]) -> None:
        self.session = session

    async def add(self, new: NoteIn) -> Note:
        note = Note(**new.model_dump())
        self.session.add(note)
        await self.session.commit()
        return note

    async def newest(self, most: int) -> list[Note]:
        return list(await self.session.scalars(select(Note).order_by(Note.id.desc()).limit(most)))

    async def get(self, note_id: int) -> Note:
        note = await self.session.get(Note, note_id)
        if note is None:
            raise HTTPException(404)
        return note


router = APIRouter(prefix="/api/notes")


@router.post("", status_code=201)
async def create(new: NoteIn, notes: Annotated[Notes, Depends()]) -> NoteOut:
    return NoteOut.model_validate(await notes.add(new))


@router.get("")
async def newest(notes: Annotated[Notes, Depends()]) -> list[NoteOut]:
    return [NoteOut.model_validate(note) for note in await notes.newest(20)]


@router.get("/{note_id}")
async def one(note_id: int, notes: Annotated[Notes, Depends()]) -> NoteOut:
    return NoteOut.model_validate(await notes.get(note_id))


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)
app.include_router(router)

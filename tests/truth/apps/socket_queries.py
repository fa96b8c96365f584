"""A websocket endpoint reads a synchronous database for each message, on the event loop."""

import asyncio
import os
from typing import Final

from fastapi import FastAPI, WebSocket
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("sync_db_on_loop", route="WS /scores", remedy=("create_async_engine",)),),
    load=(Send("WS /scores", times=12, at_once=2, pause=0.05), Send("GET /health", times=40, at_once=1, pause=0.05)),
    databases=("sqlite", "postgresql"),
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"])


class Base(DeclarativeBase):
    pass


class Score(Base):
    __tablename__ = "scores"
    id: Mapped[int] = mapped_column(primary_key=True)
    player: Mapped[str]
    points: Mapped[int]


Base.metadata.create_all(engine)
with Session(engine) as seeding:
    seeding.add_all(Score(player=f"player {number}", points=number % 977) for number in range(30_000))
    seeding.commit()

app = FastAPI()
setup_telemetry(app)


def best() -> int:
    with Session(engine) as session:
        return session.scalar(select(func.max(Score.points)).where(Score.player.like("%7%"))) or 0  # <- here


@app.websocket("/scores")
async def scores(socket: WebSocket) -> None:
    await socket.accept()
    await socket.receive_text()
    for _ in range(6):
        await socket.send_json({"best": await asyncio.to_thread(best) if os.environ.get("FIXED") else best()})
        await asyncio.sleep(0.05)
    await socket.close()


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}

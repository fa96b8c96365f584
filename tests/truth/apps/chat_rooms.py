"""Healthy: websockets with a broadcast, beside plain requests."""

import asyncio
from typing import Final

from fastapi import APIRouter, FastAPI, WebSocket, WebSocketDisconnect

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("WS /rooms/a", times=20, at_once=5, body="hello"),
        Send("WS /rooms/b", times=12, at_once=3, body="good morning"),
        Send("GET /rooms", times=100, at_once=2, pause=0.02),
    ),
    twin=False,
)


class Rooms:
    def __init__(self) -> None:
        self.members: dict[str, list[WebSocket]] = {}

    async def join(self, room: str, member: WebSocket) -> None:
        await member.accept()
        self.members.setdefault(room, []).append(member)

    async def broadcast(self, room: str, text: str) -> None:
        for member in list(self.members.get(room, ())):
            try:
                await member.send_text(text)
            except (RuntimeError, WebSocketDisconnect):
                self.members[room].remove(member)


rooms = Rooms()
router = APIRouter(prefix="/rooms")


@router.websocket("/{room}")
async def chat(socket: WebSocket, room: str) -> None:
    await rooms.join(room, socket)
    said = await socket.receive_text()
    for _ in range(10):
        await rooms.broadcast(room, said)
        await asyncio.sleep(0.08)
    rooms.members[room].remove(socket)
    await socket.close()


@router.get("")
async def listed() -> dict[str, int]:
    return {room: len(members) for room, members in rooms.members.items()}


app = FastAPI()
app.include_router(router)
setup_telemetry(app)

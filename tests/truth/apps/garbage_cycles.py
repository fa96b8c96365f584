"""Each request makes many objects in cycles beside a large heap: full collections come again and again."""

import gc
import os
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("gc_pause", line="here?", route="/tree", remedy=("freeze",), most=1),),
    load=(Send("GET /tree", times=700, at_once=2),),
    also=("blocking_call",),
)

app = FastAPI()
setup_telemetry(app)
FIXED = os.environ.get("FIXED")
heap = [[number] for number in range(4_000 if FIXED else 2_000_000)]
if FIXED:
    gc.freeze()
else:
    gc.set_threshold(700, 5, 2)
recent: list[list["Node"]] = []


class Node:
    def __init__(self, parent: "Node | None") -> None:
        self.parent = parent  # <- here
        self.children: list[Node] = []  # <- here
        if parent:
            parent.children.append(self)  # <- here


@app.get("/tree")
async def tree() -> dict[str, int]:
    root = Node(None)  # <- here
    nodes = [Node(root) for _ in range(200 if FIXED else 2_000)]  # <- here
    recent.append(nodes)
    del recent[:-40]
    return {"nodes": len(nodes)}

"""`gc_pause`: the garbage collector walks a big graph of objects, and the whole process stands still.

The graph knows which products are bought together; its objects refer to each other in circles.
"""

import asyncio
import gc
from typing import Final

from fastapi import APIRouter, Request

router = APIRouter(tags=["gc_pause"])

#: objects of a graph; collecting it takes some 0.1 s
SIZE: Final = 300_000
#: objects that are linked before the event loop may do something else
BATCH: Final = 2_000


class Node:
    """A product as the graph sees it."""

    __slots__ = ("number", "related")

    def __init__(self, number: int) -> None:
        self.number = number
        self.related: list[Node] = []


class Graph:
    """Products and those that go with them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def add(self, numbers: range) -> None:
        """Add nodes, each with links to three that are there."""
        for number in numbers:
            self.nodes.append(node := Node(number))
            node.related = [self.nodes[number * step % len(self.nodes)] for step in (31, 7_919, 104_729)]
            node.related[0].related[-1] = node

    def related(self, number: int) -> list[int]:
        """Numbers of the products that go with this one."""
        return [node.number for node in self.nodes[number].related]


@router.get("/slow/gc-pause")
async def related_built_each_time(product: int = 42) -> dict[str, list[int]]:
    """Build the graph for each request, and have it collected at once "to save memory"."""
    related = await _related(product)
    gc.collect()
    return {"related": related}


async def _related(product: int) -> list[int]:
    graph = Graph()
    for start in range(0, SIZE, BATCH):
        graph.add(range(start, start + BATCH))
        await asyncio.sleep(0)
    return graph.related(product)


@router.get("/fast/gc-pause")
async def related_built_once(request: Request, product: int = 42) -> dict[str, list[int]]:
    """Look it up in the graph that was built and frozen at the start."""
    graph: Graph = request.app.state.graph
    return {"related": graph.related(product)}


def frozen_graph() -> Graph:
    """A graph the collector no longer looks at, nor at anything else that lives by now. Call it once, at the start."""
    graph = Graph()
    graph.add(range(SIZE))
    gc.collect()
    gc.freeze()
    return graph

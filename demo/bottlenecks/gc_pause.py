"""`gc_pause`: the garbage collector walks a big graph of objects and stops the whole process meanwhile.

The graph knows which products are bought together. Its objects refer to each other in cycles.
"""

import asyncio
import gc
import math
import time
from typing import Final

from fastapi import APIRouter, Request

from demo.burning import at_speed

router = APIRouter(tags=["gc_pause"])

#: CPU time for which collecting a graph stops the process; the threshold of `gc_pause` is 0.05 s
PAUSE_SECONDS: Final = 0.08
#: objects that are linked before the event loop may run something else
BATCH: Final = 2_000
#: size of the graph whose collection is measured; the collection of a larger one takes at least proportionally longer
_MEASURED_BATCHES: Final = 25


class Node:
    """A product as the graph sees it."""

    __slots__ = ("number", "related")

    def __init__(self, number: int) -> None:
        self.number = number
        self.related: list[Node] = []


class Graph:
    """Products, linked to those that are bought with them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.batches = 0

    def add_batch(self) -> None:
        """Add a batch of nodes, each linked to three earlier ones."""
        self.batches += 1
        first = len(self.nodes)
        for number in range(first, first + at_speed(BATCH)):
            self.nodes.append(node := Node(number))
            node.related = [self.nodes[number * step % len(self.nodes)] for step in (31, 7_919, 104_729)]
            node.related[0].related[-1] = node

    def related(self, number: int) -> list[int]:
        """Return the numbers of the products that are bought with this one."""
        return [node.number for node in self.nodes[number].related]


@router.get("/slow/gc-pause")
async def related_built_each_time(request: Request, product: int = 42) -> dict[str, list[int]]:
    """Build the graph for each request and collect it at once "to save memory"."""
    related = await _related(product, request.app.state.graph.batches)
    gc.collect()
    return {"related": related}


async def _related(product: int, batches: int) -> list[int]:
    graph = Graph()
    for _ in range(batches):
        graph.add_batch()
        await asyncio.sleep(0)
    return graph.related(product)


@router.get("/fast/gc-pause")
async def related_built_once(request: Request, product: int = 42) -> dict[str, list[int]]:
    """Look the product up in the graph that was built and frozen at start-up."""
    graph: Graph = request.app.state.graph
    return {"related": graph.related(product)}


def frozen_graph() -> Graph:
    """Build a graph that takes `PAUSE_SECONDS` to collect once it is dropped, and freeze it.

    Call it once, at start-up: the collector then ignores the graph and every other object that exists by now.
    """
    gc.collect()
    gc.freeze()  # measure the graph alone
    graph = _built(_batches_for(PAUSE_SECONDS))
    gc.collect()
    gc.freeze()
    return graph


def _batches_for(seconds: float) -> int:
    """Measure how large a graph must be to take this much CPU time when it is collected."""
    taken = min(_collection_seconds(_MEASURED_BATCHES) for _ in range(3))
    return math.ceil(_MEASURED_BATCHES * seconds / taken)


def _collection_seconds(batches: int) -> float:
    graph = _built(batches)
    del graph
    started = time.thread_time()
    gc.collect()
    return time.thread_time() - started


def _built(batches: int) -> Graph:
    graph = Graph()
    for _ in range(batches):
        graph.add_batch()
    return graph

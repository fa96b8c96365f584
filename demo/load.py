"""A load generator: shoppers who use the shop, and clients that walk through the bottlenecks.

The shoppers and the walk through the bottlenecks are closed loops: each sends its next request when the previous one is
answered. The requests are the same in every run; the service's speed decides how many are sent. The steady bottlenecks
depend on a rate (memory grows per second), so their requests are sent on the clock, however long the answers take.

python -m demo.load http://demo:8000        light load on a running shop, until SIGTERM or Ctrl-C
"""

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final, NamedTuple

import httpx

from demo.beside import others_beside
from demo.catalogue import CATALOGUE, Also, Bottleneck
from demo.seed import ORDERS, PRODUCTS, USERS

#: seconds a client waits for an answer; every endpoint of the demo is faster
TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `route` is the template of its path, as in the service's metrics."""

    method: str
    route: str
    path: str
    json: Any = None

    @property
    def name(self) -> str:
        """Method and route."""
        return f"{self.method} {self.route}"


def _get(route: str, path: Callable[[Random], str]) -> Callable[[Random], Call]:
    return lambda random: Call("GET", route, path(random))


def _search(random: Random) -> str:
    return f"/products?q={random.choice(('blue', 'lamp', 'oak table', 'small mug', 'scarf'))}"


def _order(random: Random) -> Call:
    products = random.sample(range(1, PRODUCTS + 1), random.randint(1, 4))
    items = [{"product_id": product, "quantity": random.randint(1, 3)} for product in products]
    return Call("POST", "/orders", "/orders", {"user_id": random.randint(1, USERS), "items": items})


def _sign_up(random: Random) -> Call:
    return Call("POST", "/users", "/users", {"name": "New", "email": f"new{random.getrandbits(48):x}@example.org"})


#: what shoppers do, with the weight of each action out of a hundred
SHOP: Final[tuple[tuple[int, Callable[[Random], Call]], ...]] = (
    (20, _get("/products", _search)),
    (25, _get("/products/{product_id}", lambda random: f"/products/{random.randint(1, PRODUCTS)}")),
    (10, _get("/users/{user_id}", lambda random: f"/users/{random.randint(1, USERS)}")),
    (10, _get("/users/{user_id}/orders", lambda random: f"/users/{random.randint(1, USERS)}/orders")),
    (11, _get("/orders/{order_id}", lambda random: f"/orders/{random.randint(1, ORDERS)}")),
    (4, _get("/orders/{order_id}/items", lambda random: f"/orders/{random.randint(1, ORDERS)}/items")),
    (8, _order),
    (2, _sign_up),
    (3, _get("/users", lambda random: f"/users?after={random.randrange(USERS)}")),
    (2, _get("/reports/sales", lambda _: "/reports/sales?days=7")),
    (1, _get("/reports/orders.csv", lambda _: "/reports/orders.csv")),
    (1, _get("/clock", lambda _: "/clock?ticks=3&seconds=0.1")),
    (1, _get("/products/{product_id}", lambda _: "/products/0")),
    (1, _get("/failures/before-response", lambda _: "/failures/before-response")),
    (1, _get("/failures/after-first-byte", lambda _: "/failures/after-first-byte")),
)


def shopping(seed: int) -> Iterator[Call]:
    """Yield the requests of one shopper, endlessly."""
    random = Random(seed)
    weights, makers = zip(*SHOP, strict=True)
    while True:
        yield random.choices(makers, weights)[0](random)


class Visit(NamedTuple):
    """Calls of one endpoint that are sent at once. `beside`: others are timed meanwhile."""

    calls: list[Call]
    beside: bool


def walk() -> Iterator[Visit]:
    """Walk through the catalogue once, from each faulty endpoint to its fixed twin."""
    for bottleneck in CATALOGUE:
        if not bottleneck.steady:
            yield from _visits(bottleneck)


def steady_troubles() -> Iterator[list[Call]]:
    """Yield the requests of all steady bottlenecks endlessly: to the faulty endpoints, then to their fixed twins."""
    steady = [bottleneck for bottleneck in CATALOGUE if bottleneck.steady]
    while True:
        yield [Call("GET", bottleneck.faulty, bottleneck.faulty) for bottleneck in steady]
        yield [Call("GET", bottleneck.fixed, bottleneck.fixed) for bottleneck in steady]


def _visits(bottleneck: Bottleneck) -> Iterator[Visit]:
    for path in (bottleneck.faulty, bottleneck.fixed):
        for _ in range(bottleneck.in_a_row):
            yield Visit([Call("GET", path, path)] * bottleneck.at_once, bottleneck.also is Also.OTHERS)


@dataclass(frozen=True, slots=True)
class Plan:
    """The amount of load: the number of shoppers, and whether the bottlenecks are part of it. Times are in seconds."""

    shoppers: int = 8
    #: mean pause of a shopper between two requests
    pause: float = 0.04
    troubles: bool = True
    #: pause between two steps of the walk through the bottlenecks
    trouble_pause: float = 0.05
    #: time from one request of a steady bottleneck to the next
    steady_period: float = 0.2


@dataclass(slots=True)
class Load:
    """Drives a service and counts the outcomes."""

    plan: Plan
    #: by method and route, then by status or the name of the client's exception
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: the longest time that another request took during each visit, by the path that was visited
    beside: dict[str, list[float]] = field(default_factory=dict)
    _walked: bool = False
    _until: float = 0.0

    @property
    def sent(self) -> dict[str, int]:
        """Number of requests that were answered or failed, by method and route."""
        sent: Counter[str] = Counter()
        for (name, _), number in self.outcomes.items():
            sent[name] += number
        return dict(sent)

    @property
    def others(self) -> dict[str, float]:
        """Seconds that the longest of other requests took while a path was visited: in each visit, or more."""
        return {path: min(longest) for path, longest in self.beside.items()}

    @property
    def failed(self) -> int:
        """Number of answers that were a 5xx or were cut short."""
        return sum(number for (_, outcome), number in self.outcomes.items() if not outcome.startswith(("2", "4")))

    async def run(self, url: str, seconds: float) -> None:
        """Send requests for `seconds`, then wait for the last answers, so that both sides count the same.

        On a busy machine it takes longer, until each bottleneck has been visited once.
        """
        self._until, self._walked = time.monotonic() + seconds, not self.plan.troubles
        # uvicorn closes a connection after 5 s of idling; a request sent at that moment would be lost
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
        async with (
            httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self.plan.shoppers):
                group.create_task(self._shop(client, number))
            if self.plan.troubles:
                group.create_task(self._make_trouble(client))
                group.create_task(self._keep_up_trouble(client))

    @property
    def _is_over(self) -> bool:
        return self._walked and time.monotonic() > self._until

    async def _shop(self, client: httpx.AsyncClient, number: int) -> None:
        pauses = Random(-1 - number)
        for call in shopping(number):
            await asyncio.sleep(pauses.uniform(0.5, 1.5) * self.plan.pause)
            if self._is_over:
                return
            await self._send(client, call)

    async def _make_trouble(self, client: httpx.AsyncClient) -> None:
        while True:
            for visit in walk():
                await asyncio.sleep(self.plan.trouble_pause)
                if self._is_over:
                    return
                await self._visit(client, visit)
            self._walked = True

    async def _visit(self, client: httpx.AsyncClient, visit: Visit) -> None:
        async with AsyncExitStack() as exits:
            seconds = await exits.enter_async_context(others_beside(client)) if visit.beside else []
            await asyncio.gather(*(self._send(client, call) for call in visit.calls))
        if seconds:
            self.beside.setdefault(visit.calls[0].path, []).append(max(seconds))

    async def _keep_up_trouble(self, client: httpx.AsyncClient) -> None:
        async with asyncio.TaskGroup() as group:
            for calls in steady_troubles():
                await asyncio.sleep(self.plan.steady_period)
                if self._is_over:
                    return
                for call in calls:
                    group.create_task(self._send(client, call))

    async def _send(self, client: httpx.AsyncClient, call: Call) -> None:
        # uvicorn closes the connection after a failure without announcing it; the next request on it would be lost
        headers = {"connection": "close"} if call.route.startswith("/failures/") else None
        try:
            response = await client.request(call.method, call.path, json=call.json, headers=headers)
            outcome = str(response.status_code)
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        self.outcomes[call.name, outcome] += 1


#: the load of `python -m demo serve` and `python -m demo.load`: a few requests a second
LIGHT: Final = Plan(shoppers=2, pause=0.4, trouble_pause=1.0, steady_period=1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Drive a running service; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.load", description="Light load on a running shop.")
    parser.add_argument("url", help="the shop's address, such as http://demo:8000")
    parser.add_argument("--healthy", action="store_true", help="leave the bottlenecks alone")
    options = parser.parse_args(arguments)
    asyncio.run(_until_signalled(Load(replace(LIGHT, troubles=not options.healthy)), options.url))
    return 0


async def _until_signalled(load: Load, url: str) -> None:
    driving = asyncio.ensure_future(load.run(url, float("inf")))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, driving.cancel)
    with suppress(asyncio.CancelledError):
        await driving


if __name__ == "__main__":
    sys.exit(main())

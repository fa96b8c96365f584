"""A load generator: shoppers who use the shop, and one client who walks through the bottlenecks.

Closed loop: each client sends its next request when the last one is answered. What is sent is the same in every run;
how much of it, the service decides by how fast it answers.

python -m demo.load http://demo:8000        light load on a shop that runs, until SIGTERM or Ctrl-C
"""

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

import httpx

from demo.catalogue import CATALOGUE, Bottleneck
from demo.seed import ORDERS, PRODUCTS, USERS

#: seconds a client waits for an answer; longer than anything in the demo takes
TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `route` is the template of its path, as the service's metrics have it."""

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


#: what shoppers do, and how often of a hundred times
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
    """What one shopper does, without end."""
    random = Random(seed)
    weights, makers = zip(*SHOP, strict=True)
    while True:
        yield random.choices(makers, weights)[0](random)


def troubles() -> Iterator[list[Call]]:
    """Faulty endpoint, fixed twin, and so on through the catalogue, without end. A list is sent at once."""
    return _through([bottleneck for bottleneck in CATALOGUE if not bottleneck.steady])


def steady_troubles() -> Iterator[list[Call]]:
    """The same for those that need many requests."""
    return _through([bottleneck for bottleneck in CATALOGUE if bottleneck.steady])


def _through(bottlenecks: Sequence[Bottleneck]) -> Iterator[list[Call]]:
    while True:
        for bottleneck in bottlenecks:
            for path in (bottleneck.faulty, bottleneck.fixed):
                yield [Call("GET", path, path)] * bottleneck.at_once


@dataclass(frozen=True, slots=True)
class Plan:
    """How much load: shoppers, and whether the bottlenecks are part of it. Pauses are between requests, in seconds."""

    shoppers: int = 8
    pause: float = 0.04
    troubles: bool = True
    trouble_pause: float = 0.05


@dataclass(slots=True)
class Load:
    """Drives a service and counts what came back."""

    plan: Plan
    #: by method and route, and by status or the name of the client's exception
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def sent(self) -> dict[str, int]:
        """Requests that were answered, or failed, by method and route."""
        sent: Counter[str] = Counter()
        for (name, _), number in self.outcomes.items():
            sent[name] += number
        return dict(sent)

    @property
    def failed(self) -> int:
        """Answers with a 5xx, or cut short."""
        return sum(number for (_, outcome), number in self.outcomes.items() if not outcome.startswith(("2", "4")))

    async def run(self, url: str, seconds: float) -> None:
        """Send requests for so long; those under way then are waited for, so that both sides count the same."""
        until = time.monotonic() + seconds
        # uvicorn closes a connection that was idle for 5 s; a request sent at that moment would be lost
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
        async with (
            httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self.plan.shoppers):
                group.create_task(self._shop(client, number, until))
            if self.plan.troubles:
                group.create_task(self._make_trouble(client, troubles(), until))
                group.create_task(self._make_trouble(client, steady_troubles(), until))

    async def _shop(self, client: httpx.AsyncClient, number: int, until: float) -> None:
        pauses = Random(-1 - number)
        for call in shopping(number):
            await asyncio.sleep(pauses.uniform(0.5, 1.5) * self.plan.pause)
            if time.monotonic() > until:
                return
            await self._send(client, call)

    async def _make_trouble(self, client: httpx.AsyncClient, walk: Iterator[list[Call]], until: float) -> None:
        for calls in walk:
            await asyncio.sleep(self.plan.trouble_pause)
            if time.monotonic() > until:
                return
            await asyncio.gather(*(self._send(client, call) for call in calls))

    async def _send(self, client: httpx.AsyncClient, call: Call) -> None:
        # uvicorn hangs up after a failure without saying so, and the next request on the connection would be lost
        headers = {"connection": "close"} if call.route.startswith("/failures/") else None
        try:
            response = await client.request(call.method, call.path, json=call.json, headers=headers)
            outcome = str(response.status_code)
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        self.outcomes[call.name, outcome] += 1


#: what `python -m demo serve` and `python -m demo.load` send: a few requests a second
LIGHT: Final = Plan(shoppers=2, pause=0.4, trouble_pause=1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Drive a service that runs; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.load", description="Light load on a shop that runs.")
    parser.add_argument("url", help="the shop's address, such as http://demo:8000")
    parser.add_argument("--healthy", action="store_true", help="the shop alone, without its bottlenecks")
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

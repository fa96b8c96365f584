"""Every bottleneck of the demo: its kind, its two endpoints, and the line to blame."""

import importlib
import inspect
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Also(Enum):
    """What a fault makes worse besides the time of its own requests."""

    NOTHING = ""
    #: how many SQL statements a request runs
    STATEMENTS = "statements"
    #: how long other requests wait meanwhile
    OTHERS = "others"
    #: how often a cache has what is looked up
    HITS = "hits"
    #: how much memory a cache keeps
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A faulty endpoint and its fixed twin. Both are `GET` and need no parameters."""

    #: kind of its finding
    kind: str
    #: last part of both paths
    name: str
    #: the fault, in a sentence of at most 35 characters
    fault: str
    #: `module:function` to blame, below `demo.bottlenecks`, and the text of the line in it
    function: str
    code: str
    #: concurrent requests that it takes to show the fault
    at_once: int = 1
    #: consecutive requests that it takes
    in_a_row: int = 1
    #: the fault shows only in the process, after many requests; they are sent on the clock
    steady: bool = False
    #: what the fault makes worse than its own time, if its time does not show that
    also: Also = Also.NOTHING
    #: the caches of both endpoints, below `demo.bottlenecks`
    caches: tuple[str, ...] = ()

    @property
    def faulty(self) -> str:
        """Path of the faulty endpoint."""
        return f"/slow/{self.name}"

    @property
    def fixed(self) -> str:
        """Path of the fixed twin."""
        return f"/fast/{self.name}"

    def line(self) -> tuple[str, int]:
        """Return file and number of the line to blame."""
        module, _, names = self.function.partition(":")
        found = importlib.import_module(f"demo.bottlenecks.{module}")
        for name in names.split("."):
            found = getattr(found, name)
        function = inspect.unwrap(found)  # type: ignore[arg-type]
        lines, first = inspect.getsourcelines(function)
        offset = next(number for number, line in enumerate(lines) if self.code in line)
        return inspect.getfile(function), first + offset


CATALOGUE: Final = (
    Bottleneck(
        kind="n_plus_one",
        name="n-plus-one",
        fault="Items are fetched order by order.",
        function="n_plus_one:orders_one_by_one",
        code="await order.awaitable_attrs.items",
        also=Also.STATEMENTS,
    ),
    Bottleneck(
        kind="n_plus_one",
        name="n-plus-one-calls",
        fault="The warehouse is asked per item.",
        function="n_plus_one:stock_one_by_one",
        code='partners.client.get(f"/warehouse/',
    ),
    Bottleneck(
        kind="slow_dependency",
        name="slow-dependency",
        fault="Each request asks a slow carrier.",
        function="slow_dependency:days_asked_each_time",
        code='partners.client.get("/carrier',
        in_a_row=4,
    ),
    Bottleneck(
        kind="serial_calls",
        name="serial-calls",
        fault="Three services are asked in series.",
        function="serial_calls:offer_in_series",
        code='partners.client.get("/prices',
        in_a_row=4,
    ),
    Bottleneck(
        kind="client_per_request",
        name="client-per-request",
        fault="A new client, so a new connection.",
        function="client_per_request:rate_by_a_new_client",
        code="async with httpx.AsyncClient(",
        in_a_row=4,
    ),
    Bottleneck(
        kind="blocking_call",
        name="blocking-call",
        fault="A synchronous call blocks the loop.",
        function="blocking_call:fetch_rate",
        code="time.sleep(BANK_SECONDS)",
        in_a_row=3,
        also=Also.OTHERS,
    ),
    Bottleneck(
        kind="blocking_call",
        name="blocking-cpu",
        fault="A long computation blocks the loop.",
        function="blocking_call:pack",
        code="fewest = min(fewest, first_fit(",
        in_a_row=2,
        also=Also.OTHERS,
    ),
    Bottleneck(
        kind="sync_db_on_loop",
        name="sync-db-on-loop",
        fault="Synchronous SQL blocks the loop.",
        function="sync_db_on_loop:popular_pages_sync",
        code="session.execute(",
        at_once=4,
        in_a_row=3,
        also=Also.OTHERS,
    ),
    Bottleneck(
        kind="slow_query",
        name="slow-query",
        fault="A look-up without an index.",
        function="slow_query:visits_by_email",
        code="await session.execute(",
    ),
    Bottleneck(
        kind="large_result",
        name="large-result",
        fault="All rows are loaded to be counted.",
        function="large_result:popular_pages_of_rows",
        code="visits = session.scalars(",
    ),
    Bottleneck(
        kind="lock_wait",
        name="lock-wait",
        fault="A lock is kept during a call.",
        function="lock_wait:Parcels.announce_inside",
        code="async with self.lock:",
        at_once=10,
    ),
    Bottleneck(
        kind="slow_commit",
        name="slow-commit",
        fault="A loop commits every two rows.",
        function="slow_commit:count_in_portions",
        code="await session.commit()",
        also=Also.STATEMENTS,
    ),
    Bottleneck(
        kind="pool_wait",
        name="pool-wait",
        fault="A call keeps a connection open.",
        function="pool_wait:check_out_in_transaction",
        code="long_checkouts.begin()",
        at_once=4,
        in_a_row=2,
    ),
    Bottleneck(
        kind="threadpool_wait",
        name="threadpool-wait",
        fault="`def` endpoints occupy all threads.",
        function="threadpool_wait:print_label",
        code="time.sleep(PRINTER_SECONDS)",
        at_once=12,
    ),
    Bottleneck(
        kind="slow_middleware",
        name="slow-middleware",
        fault="A middleware derives keys anew.",
        function="slow_middleware:DerivingSigner.dispatch",
        code="async def dispatch(",
        in_a_row=5,
    ),
    Bottleneck(
        kind="memory_growth",
        name="memory-growth",
        fault="A cache never evicts anything.",
        function="memory_growth:page_kept_forever",
        code="pages[visitor] = render(visitor)",
        steady=True,
        also=Also.KEPT,
    ),
    Bottleneck(
        kind="gc_pause",
        name="gc-pause",
        fault="A big graph is built and dropped.",
        function="gc_pause:related_built_each_time",
        code="gc.collect()",
        also=Also.OTHERS,
    ),
    Bottleneck(
        kind="cache_inefficient",
        name="cache-inefficient",
        fault="The time is part of a cache key.",
        function="cache_inefficient:shipping_at",
        code="def shipping_at(",
        steady=True,
        also=Also.HITS,
        caches=("cache_inefficient.shipping_at", "cache_inefficient.shipping"),
    ),
)

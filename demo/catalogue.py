"""Every bottleneck of the demo: its kind, its two endpoints, and the line to blame."""

import importlib
import inspect
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A faulty endpoint and its fixed twin. Both are `GET` and need no parameters."""

    #: kind of its finding
    kind: str
    #: last part of both paths
    name: str
    #: the fault, in a sentence of at most 40 characters
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
    ),
    Bottleneck(
        kind="blocking_call",
        name="blocking-call",
        fault="A synchronous client blocks the loop.",
        function="blocking_call:fetch_rate",
        code="time.sleep(BANK_SECONDS)",
    ),
    Bottleneck(
        kind="blocking_call",
        name="blocking-cpu",
        fault="A long computation blocks the loop.",
        function="blocking_call:pack",
        code="fewest = min(fewest, first_fit(",
    ),
    Bottleneck(
        kind="sync_db_on_loop",
        name="sync-db-on-loop",
        fault="A synchronous session blocks the loop.",
        function="sync_db_on_loop:popular_pages_sync",
        code="session.execute(",
    ),
    Bottleneck(
        kind="slow_query",
        name="slow-query",
        fault="A look-up by a column without an index.",
        function="slow_query:visits_by_email",
        code="await session.execute(",
    ),
    Bottleneck(
        kind="pool_wait",
        name="pool-wait",
        fault="A connection stays open during a call.",
        function="pool_wait:check_out_in_transaction",
        code="long_checkouts.begin()",
        at_once=4,
    ),
    Bottleneck(
        kind="threadpool_wait",
        name="threadpool-wait",
        fault="Too few threads for `def` endpoints.",
        function="threadpool_wait:print_label",
        code='@router.get("/slow/threadpool-wait")',
        at_once=12,
    ),
    Bottleneck(
        kind="slow_middleware",
        name="slow-middleware",
        fault="A middleware derives a key each time.",
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
    ),
    Bottleneck(
        kind="gc_pause",
        name="gc-pause",
        fault="A big object graph is built and dropped.",
        function="gc_pause:related_built_each_time",
        code="gc.collect()",
    ),
    Bottleneck(
        kind="cache_inefficient",
        name="cache-inefficient",
        fault="The time of day is part of a cache key.",
        function="cache_inefficient:shipping_at",
        code="@lru_cache(",
        steady=True,
    ),
)

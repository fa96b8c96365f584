"""Connection pools: waits for a connection, connections in use, their use time, and the time to open one.

SQLAlchemy has no event before a check-out. `Engine.raw_connection`, the public method by which every `Connection` (and
`AsyncConnection`, `Session`) gets its database connection, is therefore wrapped and timed. The pool's events provide
the rest.

The connections in use are not counted up and down. Their number is that of the existing `_Checkout` objects. Each is
stored in the `info` dictionary of its connection, and so disappears with it, however the connection ends (returned,
detached, invalidated, garbage-collected).

A check-out that has to wait because all connections are in use stores the check-outs that use them, so that the finding
can name their routes. The lines that check connections out are looked up a few times a second, and more often if at
least half of the connections are in use: a leak fills the pool step by step, so its last check-outs show where it is.

A wait is told as what it is. A blocked event loop delays the users of connections and those that wait for one; what
this costs counts for the block and not as a wait.

Names and meanings: https://opentelemetry.io/docs/specs/semconv/db/database-metrics/#connection-pools
"""

import asyncio
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakSet, ref

from sqlalchemy import Dialect, Engine, Pool, QueuePool
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from otel_fastperf.detectors.pool_wait import Holders, Leaks, PoolWait, detect_pool_wait
from otel_fastperf.detectors.repeated_waits import RepeatedWaits
from otel_fastperf.instrumentation.engine_events import EngineEvents
from otel_fastperf.internals.frames import call_site
from otel_fastperf.internals.patching import Patch, hooked, subscribed
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import RequestRecord, current_record, route_of
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.signals import Signals

if TYPE_CHECKING:
    # without greenlet SQLAlchemy's asyncio package cannot be imported
    from sqlalchemy.ext.asyncio import AsyncEngine

    from otel_fastperf.findings import CallSite

_RawConnection = Callable[..., PoolProxiedConnection]

#: the task or thread that checked a connection out
_Worker = ref[Any] | int

_IDLE: Final = "idle"
_USED: Final = "used"

#: look-ups of the lines that check connections out, per pool and second: with half of the connections in use, and with
#: fewer
_LOOK_UPS_IF_USED: Final = 20
_LOOK_UPS: Final = 5
#: waits for a connection that are added to their histogram together, if no scrape comes before
_MANY: Final = 64
#: seconds after the end of its request from which a connection that was not given back has leaked
_LEAKED: Final = 1.0


@contextmanager
def instrument_pool(
    engines: "Sequence[Engine | AsyncEngine] | None",
    settings: DatabaseSettings,
    signals: Signals,
) -> Iterator[None]:
    """Observe the pools of `engines` (None: of every engine of the process) until the context manager exits.

    An engine is known from its first connection until it is garbage-collected. Pools belong to the process, so if
    there are several telemetries, each reports all of them.
    """
    pools = _PoolListeners(engines, settings, signals)
    with ExitStack() as exits:
        exits.callback(pools.remove_states)
        exits.callback(signals.metrics.on_refresh(pools.refresh))
        exits.enter_context(hooked(Engine, "pools", _PoolEvents, pools, pools))
        exits.enter_context(subscribed(Engine, "raw_connection", _timing_connections, pools, pools))
        yield


class _PoolEvents(EngineEvents["_PoolListeners"]):
    """Tells each telemetry of each connection."""

    def __init__(self) -> None:
        super().__init__(("connect", self.connected), ("checkin", self.returned), ("detach", self.returned))

    def connected(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        """`connect`: there is a new connection."""
        for listeners in self.subscribers.values():
            listeners.connected(connection, entry)

    def returned(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        """`checkin`, `detach`: a connection is no longer in use, or no longer in the pool."""
        for listeners in self.subscribers.values():
            listeners.returned(connection, entry)


class _Pool:
    """The pool of one engine. It outlives `dispose()`, which replaces SQLAlchemy's `Pool` object."""

    __slots__ = ("current", "dialect", "long_waits", "look_ups", "name", "pending", "use_times", "used", "wait_times")

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        #: identifies the engine: one per `create_engine`, shared with the copies that `execution_options()` returns
        self.dialect = ref(engine.dialect)
        self.current: ref[Pool] = ref(engine.pool)
        self.pending: set[_Checkout] = set()
        self.used: WeakSet[_Checkout] = WeakSet()
        #: times in seconds that are not in their histograms yet. They cannot be added where they are measured: the
        #: garbage collector may return a connection while this thread holds the histogram's lock
        self.use_times: deque[float] = deque()
        self.wait_times: deque[float] = deque()
        self.long_waits = RepeatedWaits()
        #: the second of the latest look-ups of lines, and their number
        self.look_ups: tuple[int, int] = (0, 0)

    def may_look_up(self, now: float) -> bool:
        """Whether the line that checks out a connection may be looked up now; counts it."""
        second, number = self.look_ups
        if second != int(now):
            number = 0
        if number >= _LOOK_UPS and (number >= _LOOK_UPS_IF_USED or not _is_half_used(self)):
            return False
        self.look_ups = (int(now), number + 1)
        return True


class _Checkout:
    """A connection from the moment it is requested until it is returned."""

    __slots__ = ("__weakref__", "exhausted", "holders", "pool", "record", "since", "site", "until", "worker")

    def __init__(self, pool: _Pool, record: RequestRecord | None) -> None:
        self.pool = pool
        #: the request that needs it; None outside of requests
        self.record = record
        #: None outside of requests
        self.worker: _Worker | None = None if record is None else _current_worker()
        #: the line that checked it out, if that was looked up
        self.site: CallSite | None = None
        #: all connections were in use when this one was requested; `holders` are their check-outs
        self.exhausted = False
        self.holders: list[_Checkout] = []
        self.since = time.perf_counter()
        #: time of return by `time.perf_counter()`; 0 until then
        self.until = 0.0


class _PoolListeners:
    """The event listeners of one telemetry, and the pools it knows. Their failures never reach SQLAlchemy."""

    def __init__(
        self, engines: "Sequence[Engine | AsyncEngine] | None", settings: DatabaseSettings, signals: Signals
    ) -> None:
        self._settings = settings
        self._dialects = None if engines is None else {engine.dialect for engine in engines}
        self._signals = signals
        self._pools: WeakKeyDictionary[Dialect, _Pool] = WeakKeyDictionary()
        self._names: dict[str, _Pool] = {}
        self._lock = threading.Lock()
        # keys in a connection's `info`; objects, so that those of several telemetries differ
        self._checkout = object()
        self._create_time = object()

    def connected(self, _connection: Any, entry: ConnectionPoolEntry) -> None:
        """Pool event `connect`: store the time to connect for `obtained`, which knows the engine."""
        try:
            # the event `do_connect` does not fire for engines with a `creator`
            began = getattr(entry, "last_connect_time", None)
            if began is not None:
                entry.info[self._create_time] = max(0.0, time.time() - began)
        except Exception as error:  # noqa: BLE001 - telemetry must not make a check-out fail
            self._signals.guard.failed("pool", error)

    def returned(self, _connection: Any, entry: ConnectionPoolEntry) -> None:
        """Pool events `checkin` and `detach`: the connection is no longer in use, or no longer in the pool."""
        try:
            checkout: _Checkout | None = entry.info.pop(self._checkout, None)
            if checkout is not None:
                checkout.pool.used.discard(checkout)
                checkout.until = time.perf_counter()
                checkout.pool.use_times.append(checkout.until - checkout.since)
        except Exception as error:  # noqa: BLE001 - telemetry must not make a check-out fail
            self._signals.guard.failed("pool", error)

    def refresh(self) -> None:
        """Set the gauges; drop the series of engines that are gone."""
        with self._lock:
            pools = self._living()
        for pool in pools:
            self._settle(pool)
            self._set_states(pool)

    def remove_states(self) -> None:
        """Remove the gauges, which nothing updates any more. Counters and histograms stay."""
        try:
            for pool in self._names.values():
                self._settle(pool)
                _remove_states(pool.name, self._signals.metrics)
        except Exception as error:  # noqa: BLE001 - the rest must be undone too
            self._signals.guard.failed("pool", error)

    def requested(self, engine: Engine) -> _Checkout | None:
        """Note the request for a connection. None for an engine that is not observed."""
        try:
            if self._dialects is not None and engine.dialect not in self._dialects:
                return None
            pool = self._pools.get(engine.dialect) or self._new(engine)
            pool.current = ref(engine.pool)
            record = current_record()
            if record is not None and (record.excluded or record.owner is not self._signals):
                record = None
            checkout = _Checkout(pool, record)
            if _is_exhausted(engine.pool):
                checkout.exhausted = True
                checkout.holders = _holders(pool)
            pool.pending.add(checkout)
        except Exception as error:  # noqa: BLE001 - telemetry must not make a check-out fail
            self._signals.guard.failed("pool", error)
            return None
        return checkout

    def given_up(self, checkout: _Checkout, error: BaseException) -> None:
        """Note that no connection was obtained: a timeout, a cancellation, or an unreachable database."""
        checkout.pool.pending.discard(checkout)
        try:
            now = time.perf_counter()
            self._note(checkout, now)
            if isinstance(error, PoolTimeoutError):
                self._signals.metrics.pool_timeouts.child(checkout.pool.name).inc()
                self._report(checkout, now, now - checkout.since, timed_out=True)
        except Exception as failure:  # noqa: BLE001 - telemetry must not make a check-out fail
            self._signals.guard.failed("pool", failure)

    def _note(self, checkout: _Checkout, now: float) -> None:
        record = checkout.record
        if record is not None and not record.ended:
            record.waited(checkout.since, now, Cause.POOL_WAIT)

    def _unexplained(self, checkout: _Checkout, now: float, seconds: float) -> float:
        """The part of a wait that no block of the event loop explains."""
        delays, dialect = self._signals.delays, checkout.pool.dialect()
        if checkout.record is not None and checkout.record.loop_thread == threading.get_ident():
            delays.catch_up()
        on_loop = dialect is not None and dialect.is_async
        return delays.unexplained_seconds(checkout.since, now, seconds, on_loop=on_loop)

    def _report(self, checkout: _Checkout, now: float, seconds: float, *, timed_out: bool = False) -> None:
        record, current = checkout.record, checkout.pool.current()
        wait = PoolWait(
            pool=checkout.pool.name,
            seconds=seconds,
            timed_out=timed_out,
            in_request=record is not None,
            size=current.size() if isinstance(current, QueuePool) else 0,
            most=(_most(current) if isinstance(current, QueuePool) else None) or 0,
            used=len(checkout.holders),
            waiting=len(checkout.pool.pending - {checkout}),
            holders=_by_route(checkout.holders, now),
            itself=record is not None
            and any(holder.record is record and holder.worker == checkout.worker for holder in checkout.holders),
            parallel=_parallel(checkout.holders),
            leaks=_leaks(checkout.holders, now),
            repeated=seconds >= self._settings.pool_wait and checkout.pool.long_waits.add(now),
        )
        for finding in detect_pool_wait(wait, self._settings):
            if not wait.leaks:
                site = call_site(sys._getframe())  # noqa: SLF001 - there is no other way to a frame
                finding = replace(finding, call_site=site)  # noqa: PLW2901
            self._signals.findings.report(finding, record)

    def obtained(self, checkout: _Checkout, connection: PoolProxiedConnection) -> None:
        """Note that the connection was obtained."""
        checkout.pool.pending.discard(checkout)
        try:
            now = time.perf_counter()
            pool, metrics, seconds = checkout.pool, self._signals.metrics, now - checkout.since
            self._note(checkout, now)
            pool.wait_times.append(seconds)
            create_time = connection.info.pop(self._create_time, None)
            if create_time is not None:
                metrics.pool_create_time.child(pool.name).observe(create_time)
                seconds -= create_time
            # waits outside of requests, at start-up and in jobs, delay no user
            if checkout.exhausted and checkout.record is not None and not checkout.record.ended:
                self._report(checkout, now, self._unexplained(checkout, now, seconds))
            # otherwise they, and their requests, would stay in memory until this connection is returned
            checkout.holders = []
            # pools that share a connection (StaticPool, SingletonThreadPool) return one that is already in use
            if self._checkout not in connection.info:
                checkout.since = now
                if checkout.record is not None and pool.may_look_up(now):
                    checkout.site = call_site(sys._getframe())  # noqa: SLF001 - there is no other way to a frame
                connection.info[self._checkout] = checkout
                pool.used.add(checkout)
            if len(pool.wait_times) >= _MANY:
                self._settle(pool)
        except Exception as error:  # noqa: BLE001 - telemetry must not make a check-out fail
            self._signals.guard.failed("pool", error)

    def _settle(self, pool: _Pool) -> None:
        metrics = self._signals.metrics
        for times, family in ((pool.wait_times, metrics.pool_wait_time), (pool.use_times, metrics.pool_use_time)):
            with suppress(IndexError):  # there are no more, or another thread took the last one
                histogram = family.child(pool.name)
                while times:
                    histogram.observe(times.popleft())

    def _new(self, engine: Engine) -> _Pool:
        with self._lock:
            pool = self._pools.get(engine.dialect)
            if pool is None:
                self._living()
                pool = _Pool(_unique(_name(engine), self._names), engine)
                self._pools[engine.dialect] = self._names[pool.name] = pool
                # appears on /metrics from now on, because a rate needs the zero before the first timeout
                self._signals.metrics.pool_timeouts.child(pool.name)
        return pool

    def _living(self) -> list[_Pool]:
        """The pools whose engine still exists; frees the names of the others. The caller must hold the lock."""
        for pool in tuple(self._names.values()):
            if pool.dialect() is None:
                del self._names[pool.name]
                _remove(pool.name, self._signals.metrics)
        return list(self._names.values())

    def _set_states(self, pool: _Pool) -> None:
        metrics = self._signals.metrics
        metrics.pool_pending_requests.child(pool.name).set(len(pool.pending))
        metrics.pool_count.child(pool.name, _USED).set(len(pool.used))
        current = pool.current()
        # only pools with a queue have idle connections and a limit
        if isinstance(current, QueuePool):
            metrics.pool_count.child(pool.name, _IDLE).set(current.checkedin())
            most = _most(current)
            if most is not None:
                metrics.pool_max.child(pool.name).set(most)


def _name(engine: Engine) -> str:
    """`pool_logging_name` if the engine has one, else `host:port/database`; never a user or password."""
    name = getattr(engine.pool, "logging_name", None)
    if name:
        return str(name)
    url = engine.url
    if engine.dialect.name == "sqlite":
        return url.database or ":memory:"
    host = url.host or url.query.get("host") or ""
    port = f":{url.port}" if url.port else ""
    return f"{host}{port}/{url.database or ''}"


def _unique(name: str, taken: dict[str, _Pool]) -> str:
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}#{number}"
    return unique


def _most(pool: QueuePool) -> int | None:
    """Most connections the pool may open; None without a limit. `max_overflow` has no public accessor."""
    overflow: int | None = getattr(pool, "_max_overflow", None)
    return None if overflow is None or overflow < 0 else pool.size() + overflow


def _is_exhausted(pool: Pool) -> bool:
    """True if the pool has no free connection and may not open one."""
    # first the cheap check: a pool that is large enough usually has an idle connection
    if not isinstance(pool, QueuePool) or pool.checkedin():
        return False
    most = _most(pool)
    return most is not None and pool.checkedout() >= most


def _is_half_used(pool: _Pool) -> bool:
    """True if at least half of the connections that the pool may open are in use."""
    current = pool.current()
    if not isinstance(current, QueuePool):
        return False
    most = _most(current)
    return most is not None and 2 * current.checkedout() >= most


def _current_worker() -> _Worker:
    """The task, or else the thread, that runs this."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        task = None
    return threading.get_ident() if task is None else ref(task)


def _holders(pool: _Pool) -> list[_Checkout]:
    """The check-outs that use a connection of the pool, or are opening one."""
    opening = [checkout for checkout in tuple(pool.pending) if not checkout.exhausted]
    for _ in range(3):
        # iterating over a `WeakSet` fails if another thread adds to it
        with suppress(RuntimeError):
            return [*pool.used, *opening]
    return opening


def _by_route(checkouts: Iterable[_Checkout], now: float) -> tuple[Holders, ...]:
    """The users of connections by route, most connections first; "" stands for code outside of requests."""
    found: dict[str, Holders] = {}
    for checkout in checkouts:
        route = str(route_of(checkout.record))
        before = found.get(route) or Holders(route, 0, 0.0)
        in_use = (checkout.until or now) - checkout.since
        found[route] = Holders(route, before.connections + 1, max(before.seconds, in_use))
    return tuple(sorted(found.values(), key=lambda holders: (-holders.connections, -holders.seconds)))


def _parallel(checkouts: Iterable[_Checkout]) -> int:
    """Most connections that one request uses in different tasks or threads."""
    # by id, because a reference to a task that is gone has no hash
    used = {(id(each.record), id(each.worker)) for each in checkouts if each.record is not None}
    return max(Counter(record for record, _ in used).values(), default=0)


def _leaks(checkouts: Iterable[_Checkout], now: float) -> tuple[Leaks, ...]:
    """The connections that were never given back, by route, most first, each with a line that is known."""
    found: dict[str, Leaks] = {}
    for checkout in checkouts:
        if _has_leaked(checkout, now):
            route = str(route_of(checkout.record))
            before = found.get(route) or Leaks(route, 0, 0.0, None)
            seconds = max(before.seconds, now - checkout.since)
            found[route] = Leaks(route, before.connections + 1, seconds, before.site or checkout.site)
    return tuple(sorted(found.values(), key=lambda leaks: (-leaks.connections, -leaks.seconds)))


def _has_leaked(checkout: _Checkout, now: float) -> bool:
    """True if the request has ended, as has all that it started, and the connection is still in use."""
    record, worker = checkout.record, checkout.worker
    if checkout.until or record is None or not record.ended or now - record.ended < _LEAKED:
        return False
    if record.background_tasks:
        return False
    task = worker() if isinstance(worker, ref) else None
    return task is None or task.done()


def _remove(name: str, metrics: Metrics) -> None:
    _remove_states(name, metrics)
    metrics.pool_wait_time.remove(name)
    metrics.pool_use_time.remove(name)
    metrics.pool_create_time.remove(name)
    metrics.pool_timeouts.remove(name)


def _remove_states(name: str, metrics: Metrics) -> None:
    metrics.pool_count.remove(name, _IDLE)
    metrics.pool_count.remove(name, _USED)
    metrics.pool_max.remove(name)
    metrics.pool_pending_requests.remove(name)


def _timing_connections(original: _RawConnection, patch: Patch[_PoolListeners]) -> _RawConnection:
    @wraps(original)
    def raw_connection(self: Engine, *arguments: Any, **options: Any) -> PoolProxiedConnection:
        wanted = [
            (pools, checkout) for pools in patch.subscribers.values() if (checkout := pools.requested(self)) is not None
        ]
        try:
            connection = original(self, *arguments, **options)
        except BaseException as error:
            for pools, checkout in wanted:
                pools.given_up(checkout, error)
            raise
        for pools, checkout in wanted:
            pools.obtained(checkout, connection)
        return connection

    return raw_connection

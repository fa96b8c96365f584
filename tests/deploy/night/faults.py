"""The faults, how each is made, and which alerts tell of it: what a reader of deploy/runbooks would expect."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from secrets import token_hex
from typing import Final, TypeAlias

from tests.deploy.night.load import Shoppers, ask
from tests.deploy.night.stack import Stack
from tests.deploy.night.watch import Told
from tests.deploy.spans import Sent, export
from tests.serving import wait_until

OK: Final = 200

#: seconds that Alertmanager waits before the first message about a ticket, with a reserve
GROUP_WAIT: Final = 90.0

#: requests of the burst, which one scrape finds at once
BURST: Final = 200


@dataclass(frozen=True)
class Alert:
    """An alert by its name and some of its labels."""

    name: str
    labels: Mapping[str, str]

    def is_(self, told: Told) -> bool:
        return told.name == self.name and self.labels.items() <= told.labels.items()


def page(name: str, **labels: str) -> Alert:
    return Alert(name, {**labels, "severity": "page"})


def ticket(name: str, **labels: str) -> Alert:
    return Alert(name, {**labels, "severity": "ticket"})


Injection: TypeAlias = Callable[[Stack], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """A fault lasts from entering `injected` until it is left, which is after the alerts have come."""

    name: str
    injected: Injection
    alerts: tuple[Alert, ...]
    #: the service that it strikes, or of whose traces it may lose some
    service: str = "shop"
    #: faults that strike before this one has ended
    meanwhile: tuple["Fault", ...] = ()
    #: whether the stack promises that no trace is lost
    keeps_traces: bool = True
    needs_disk: bool = False
    #: whether what else the machine does decides how much of it comes
    needs_quiet: bool = False
    #: for faults without an alert of their own: how long they last, in seconds by the clock of the shipped rules
    seconds: float = field(default=0.0)


# The code of the service


def _asked(path: str, *, service: str = "shop", number: int = 1, pause: float = 0.3) -> Injection:
    """Clients that ask a service for this path, one request after the other."""

    @contextmanager
    def injected(stack: Stack) -> Iterator[None]:
        with Shoppers(stack.services[service].port, lambda _: repeat(path), number=number, pause=pause):
            yield

    return injected


@contextmanager
def _burst(stack: Stack) -> Iterator[None]:
    port = stack.services["shop"].port
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda path: ask(port, path), ["/failures/before-response"] * BURST))
    yield


# The process and its machine


@contextmanager
def _killed(stack: Stack) -> Iterator[None]:
    service = stack.services["small"]
    service.part.server.process.kill()
    yield
    service.part.end()
    service.part.start()


@contextmanager
def _frozen(stack: Stack) -> Iterator[None]:
    process = stack.services["small"].pid
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@contextmanager
def _tables_gone(stack: Stack) -> Iterator[None]:
    """A migration renames the tables, so every statement fails; a second one names them back."""
    database = stack.services["checkout"].database
    assert database is not None
    tables = _rename(database, "{}", "{}_migrated")
    yield
    assert _rename(database, "{}_migrated", "{}") == tables


def _rename(database: Path, old: str, new: str) -> int:
    """Rename each table whose name is like `old`; return their number."""
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        found = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        ending = old.removeprefix("{}")
        names = [name.removesuffix(ending) for (name,) in found if name.endswith(ending)]
        for name in names:
            connection.execute(f'ALTER TABLE "{old.format(name)}" RENAME TO "{new.format(name)}"')
    return len(names)


_NEIGHBOURS: Final = 3


@contextmanager
def _starved(stack: Stack) -> Iterator[None]:
    """Neighbours that never wait, on the one processor left to the service, which has enough to do."""
    service = stack.services["small"]
    processors = os.sched_getaffinity(0)
    one = max(processors)
    with ExitStack() as running:
        for _ in range(_NEIGHBOURS):
            neighbour = running.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            running.callback(neighbour.kill)
            os.sched_setaffinity(neighbour.pid, {one})
        running.callback(_place, service.pid, processors)
        _place(service.pid, {one})
        # not sampled: their spans would fill the queue of a collector that cannot get rid of it
        paths = repeat("/items/1")
        running.enter_context(Shoppers(service.port, lambda _: paths, number=6, pause=0.01, sampled=False))
        yield


def _place(process: int, processors: set[int]) -> None:
    for thread in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(thread.name), processors)


# The stack


@contextmanager
def _collector_down(stack: Stack) -> Iterator[None]:
    stack.collector.server.server.kill()
    yield
    stack.collector.end()
    stack.collector.start()


@contextmanager
def _jaeger_down(stack: Stack) -> Iterator[None]:
    stack.jaeger.server.server.kill()
    yield
    stack.jaeger.end()
    stack.jaeger.start()


@contextmanager
def _prometheus_restarted(stack: Stack) -> Iterator[None]:
    stack.prometheus.server.kill()
    stack.prometheus.end()
    time.sleep(stack.clock.seconds(60))
    stack.prometheus.start()
    yield


@contextmanager
def _disk_full(stack: Stack) -> Iterator[None]:
    """Another file takes the disk, and spans of another service what is left in the file of the collector's queue."""
    assert stack.disk is not None
    other = stack.disk / "other"
    descriptor = os.open(other, os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):
            while True:
                os.write(descriptor, bytes(4096))
        while export(stack.collector.server.endpoint, _some_spans(), service="another") == OK:
            pass
        yield
    finally:
        os.close(descriptor)
        other.unlink()


def _some_spans() -> list[Sent]:
    """500 KB, which compression would not make much smaller."""
    return [Sent("GET /", attributes={"body": token_hex(5_000)}) for _ in range(50)]


def _finding(kind: str, route: str, job: str = "shop") -> Alert:
    return ticket("FastperfFinding", job=job, kind=kind, http_route=route)


_BURN: Final = "FastperfAvailabilityBurn"
DISK_FULL: Final = Fault(
    "the disk of the collector's queue is full",
    _disk_full,
    (ticket("CollectorRefusing"), ticket("CollectorEnqueueFailed")),
    needs_disk=True,
)
PROMETHEUS_RESTARTED: Final = Fault(
    "Prometheus is killed and starts again a minute later",
    _prometheus_restarted,
    (),
    seconds=240,
)

#: faults that follow each other; the rows are independent
TRACKS: Final[tuple[tuple[Fault, ...], ...]] = (
    (
        Fault("N+1", _asked("/slow/n-plus-one"), (_finding("n_plus_one", "/slow/n-plus-one"),)),
        Fault(
            "blocked event loop",
            _asked("/slow/blocking-call"),
            (
                ticket("FastperfEventLoopBlocked", job="shop", http_route="/slow/blocking-call"),
                _finding("blocking_call", "/slow/blocking-call"),
            ),
        ),
        Fault(
            "memory grows",
            _asked("/slow/memory-growth", pause=0.15),
            (ticket("FastperfFinding", job="shop", kind="memory_growth"),),
        ),
        Fault(
            f"burst of {BURST} errors on a fresh route",
            _burst,
            (page(_BURN, job="shop", window="1h"),),
        ),
    ),
    (
        Fault(
            "pool exhausted",
            _asked("/slow/pool-wait", service="checkout", number=5, pause=0),
            (
                _finding("pool_wait", "/slow/pool-wait", job="checkout"),
                ticket("FastperfPoolWaiting", job="checkout", db_client_connection_pool_name="long_checkouts"),
            ),
            service="checkout",
        ),
        Fault(
            "total outage: a migration takes the tables away",
            _tables_gone,
            (page(_BURN, job="checkout", window="1h"),),
            service="checkout",
        ),
    ),
    (
        Fault(
            "starved of CPU by neighbours",
            _starved,
            (ticket("FastperfCpuStarved", job="small"),),
            service="small",
            needs_quiet=True,
        ),
        Fault(
            "total outage: the process hangs",
            _frozen,
            (page("FastperfAllTargetsDown", job="small"),),
            service="small",
        ),
        Fault(
            "total outage: the process is killed",
            _killed,
            (page("FastperfAllTargetsDown", job="small"),),
            service="small",
            # the last second waits in the memory of a process that nothing warns
            keeps_traces=False,
        ),
    ),
    (
        Fault("the collector is down", _collector_down, (ticket("CollectorDown"),)),
        Fault(
            "Jaeger is down",
            _jaeger_down,
            (ticket("JaegerDown"),),
            meanwhile=(PROMETHEUS_RESTARTED, DISK_FULL),
        ),
    ),
)


def wait(stack: Stack, fault: Fault, since: float, patience: float) -> bool:
    """Wait until each alert of a fault has fired, or as long as it lasts; False if one has not within `patience`.

    Then wait for the messages about them, unless another alert holds them back or an earlier message delays them.
    """
    if not fault.alerts:
        time.sleep(stack.clock.seconds(fault.seconds))
        return True
    try:
        wait_until(lambda: all(first(stack, alert, since) for alert in fault.alerts), seconds=patience)
    except AssertionError:
        return False
    told = [found for alert in fault.alerts if (found := first(stack, alert, since)) is not None]
    with suppress(AssertionError):
        wait_until(lambda: all(map(stack.watch.message, told)), seconds=stack.clock.seconds(GROUP_WAIT))
    return True


def first(stack: Stack, alert: Alert, since: float) -> Told | None:
    """The first time that an alert fired since then."""
    return next((told for told in list(stack.watch.told) if told.fired >= since and alert.is_(told)), None)

"""Runs the faults, and keeps what was told of each and what was lost."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tests.deploy.night.faults import TRACKS, Alert, Fault, first, wait
from tests.deploy.night.load import Request
from tests.deploy.night.stack import Stack
from tests.deploy.night.watch import Told
from tests.serving import wait_until

#: requests of a fault whose traces are looked for: a search takes Jaeger a few milliseconds
MOST: Final = 300

#: seconds for the last traces to reach Jaeger: the collector tries again every 30 s
SETTLING: Final = 60.0


@dataclass
class Outcome:
    """What came of one fault. Times are in seconds since the epoch."""

    fault: Fault
    began: float
    ended: float
    first_failure: float | None
    #: for each alert of the fault, its first firing
    told: list[Told | None]
    #: the requests answered meanwhile, and those of them whose trace is not in Jaeger
    requests: list[Request]
    missing: list[Request] = field(default_factory=list)


def run(stack: Stack, *, patience: float, tracks: Iterable[Sequence[Fault]] = TRACKS) -> list[Outcome]:
    """Strike with each fault once its predecessor's alerts came, and its own do not fire. `patience` is in seconds.

    Returns one outcome for each fault, in the order in which they are listed.
    """
    rows = [tuple(fault for fault in track if _is_possible(stack, fault)) for track in tracks]
    with ThreadPoolExecutor(len(rows)) as threads:
        done = threads.map(lambda row: [out for fault in row for out in _strike(stack, fault, patience)], rows)
        outcomes = [outcome for row in done for outcome in row]
    _find_missing(stack, outcomes)
    return outcomes


def _is_possible(stack: Stack, fault: Fault) -> bool:
    return stack.disk is not None or not fault.needs_disk


def _strike(stack: Stack, fault: Fault, patience: float) -> Iterator[Outcome]:
    with suppress(AssertionError):
        wait_until(lambda: all(_is_over(stack, told) for told in _told(stack, fault)), seconds=patience)
    began = time.time()
    inner: list[Outcome] = []
    with fault.injected(stack):
        said = "told" if wait(stack, fault, began, patience) else "NOT told"
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {fault.name}: {said}\n")
        for other in fault.meanwhile:
            if _is_possible(stack, other):
                inner += _strike(stack, other, patience)
    ended = time.time()
    shoppers = stack.services[fault.service].shoppers
    yield Outcome(
        fault,
        began,
        ended,
        shoppers.first_failure(began),
        [first(stack, alert, began) for alert in fault.alerts],
        _some(shoppers.answered(began, ended)),
    )
    yield from inner


def _some(requests: list[Request]) -> list[Request]:
    """`MOST` of them at equal distances, or all."""
    step = max(1, -(-len(requests) // MOST))
    return requests[::step]


def _find_missing(stack: Stack, outcomes: Sequence[Outcome]) -> None:
    """Ask Jaeger for each request until all are there, or none has come for `SETTLING` seconds."""
    for outcome in outcomes:
        outcome.missing = list(outcome.requests)
    left, deadline = -1, time.monotonic() + SETTLING
    while left and time.monotonic() < deadline:
        for outcome in outcomes:
            outcome.missing = [one for one in outcome.missing if not stack.jaeger.server.trace(one.trace_id)]
        now = sum(len(outcome.missing) for outcome in outcomes)
        if now != left:
            left, deadline = now, time.monotonic() + SETTLING
        time.sleep(0.5)


def wait_for_ends(stack: Stack, outcomes: Sequence[Outcome], seconds: float) -> list[Told]:
    """Wait until the alerts of all faults have ended and, if they were sent, messages say so.

    Returns those that did not in `seconds`.
    """
    alerts = [told for outcome in outcomes for told in outcome.told if told is not None]
    deadline = time.monotonic() + seconds
    while open_ := [told for told in alerts if not _is_over(stack, told)]:
        if time.monotonic() > deadline:
            return open_
        time.sleep(1)
    return []


def _told(stack: Stack, fault: Fault) -> list[Told]:
    return [told for told in list(stack.watch.told) if any(alert.is_(told) for alert in fault.alerts)]


def _is_over(stack: Stack, told: Told) -> bool:
    if told.ended is None:
        return False
    return stack.watch.message(told) is None or stack.watch.message(told, "resolved") is not None


def others(stack: Stack, outcomes: Sequence[Outcome]) -> list[Told]:
    """The alerts that no fault expected."""
    expected: list[Alert] = [alert for outcome in outcomes for alert in outcome.fault.alerts]
    return [told for told in list(stack.watch.told) if not any(alert.is_(told) for alert in expected)]

"""A lock or semaphore of the process for which requests wait: asyncio's, anyio's, threading's."""

import ast
import linecache
import re
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.requests.awaits import Awaited
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.settings import DatabaseSettings

#: functions that wait for a lock; a condition's `wait` waits for news, not for a lock
_ACQUIRES: Final = re.compile(r"(?:^|\.)\w*(?:Lock|Semaphore|Limiter)\.(?:acquire|acquire_on_behalf_of)$")
#: minimum share of the request
_LEAST_SHARE: Final = 0.3
#: requests within `_RECENT` seconds whose waits are a finding, and the least seconds from the first to the last:
#: requests that come all at once after a start wait for each other once
_REPEATS: Final = 4
_LEAST_SPAN: Final = 1.0
_RECENT: Final = 120.0
_MOST_RECENT: Final = 64
_MOST_LINES: Final = 256


class AwaitedLocks:
    """A detector that remembers when requests waited for the lock of each line."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._recent: OrderedDict[CallSite, deque[float]] = OrderedDict()

    def __call__(self, record: RequestRecord) -> Iterator[Finding]:
        """Yield the findings of one finished request. Called on the event loop's thread or the backlog's."""
        # most requests are too fast to have been sampled
        if record.awaits is None or record.scope["type"] == "websocket":
            return
        for awaited, seconds in tuple(record.awaited.items()):
            site = awaited.call_site
            if site is None or awaited.computing or _ACQUIRES.search(awaited.function) is None:
                continue
            # on a busy machine, what is done with the lock takes longer
            own = seconds - record.starved
            if own >= max(self._settings.lock_wait, _LEAST_SHARE * record.own_seconds) and self._recurs(site, record):
                yield _finding(record, awaited, site, seconds)

    def _recurs(self, site: CallSite, record: RequestRecord) -> bool:
        recent = self._recent.setdefault(site, deque(maxlen=_MOST_RECENT))
        recent.append(record.ended)
        while record.ended - recent[0] > _RECENT:
            recent.popleft()
        if len(self._recent) > _MOST_LINES:
            self._recent.popitem(last=False)
        return len(recent) >= _REPEATS and recent[-1] - recent[0] >= _LEAST_SPAN


def _finding(record: RequestRecord, awaited: Awaited, site: CallSite, seconds: float) -> Finding:
    lock = awaited.function.rpartition(".")[0]
    share = min(1.0, seconds / record.seconds)
    kept = _kept_by(record, site)
    evidence: dict[str, str | int | float] = {"seconds": seconds, "share": share, "lock": awaited.what}
    if kept is not None:
        evidence["kept_while"] = str(kept)
    why = f" What keeps it: {kept}." if kept is not None else ""
    return Finding(
        kind=Kind.LOCK_WAIT,
        severity=Severity.WARNING,
        subject=lock,
        message=f"A request waited {seconds:.3f} s, {share:.0%} of its time, for a {lock} of {awaited.library}.{why}",
        remedy=_remedy(lock, kept),
        evidence=evidence,
        call_site=site,
        seconds=seconds,
    )


def _remedy(lock: str, kept: Awaited | None) -> str:
    first = f"Do the work at {kept.call_site} before or after the block" if kept is not None else "Keep it for less"
    if "Lock" not in lock:
        return f"{first}, or raise the limit as far as what it protects allows."
    return (
        f"{first}. Where the lock only keeps several requests from doing the same, such as fetching a token, let one"
        " task do it and the others await that task. Where it protects one item, take a lock for each."
    )


def _kept_by(record: RequestRecord, site: CallSite) -> Awaited | None:
    """What a request does longest inside the block of the lock: this one did it too, when its turn had come."""
    lines = _block_at(site)
    inside = {
        awaited: seconds
        for awaited, seconds in tuple(record.awaited.items())
        if awaited.call_site is not None and awaited.call_site.file == site.file and awaited.call_site.line in lines
    }
    return max(inside, key=lambda awaited: inside[awaited], default=None)


def _block_at(site: CallSite) -> range:
    """The lines of the body of the `with` or `async with` at this line."""
    try:
        tree = ast.parse("".join(linecache.getlines(site.file)))
    except (SyntaxError, ValueError):
        return range(0)
    for node in ast.walk(tree):
        if isinstance(node, ast.With | ast.AsyncWith) and node.lineno <= site.line < node.body[0].lineno:
            return range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)
    return range(0)

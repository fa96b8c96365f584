"""Findings: the kinds of bottleneck, one `Finding`, and the bounded log that merges equal ones."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Final, TypeAlias

#: type of `Finding.evidence`: values of OpenTelemetry attributes, in plain units (seconds, bytes)
Evidence: TypeAlias = Mapping[str, str | int | float | bool | tuple[str, ...]]

#: maximum number of example traces per finding
MOST_TRACES: Final = 5


class Kind(StrEnum):
    """The built-in kinds of bottleneck; each has a page in docs/findings/."""

    BLOCKING_CALL = "blocking_call"
    SYNC_DB_ON_LOOP = "sync_db_on_loop"
    N_PLUS_ONE = "n_plus_one"
    SLOW_QUERY = "slow_query"
    LARGE_RESULT = "large_result"
    LOCK_WAIT = "lock_wait"
    SLOW_COMMIT = "slow_commit"
    POOL_WAIT = "pool_wait"
    THREADPOOL_WAIT = "threadpool_wait"
    SLOW_MIDDLEWARE = "slow_middleware"
    MEMORY_GROWTH = "memory_growth"
    GC_PAUSE = "gc_pause"
    CACHE_INEFFICIENT = "cache_inefficient"
    SLOW_DEPENDENCY = "slow_dependency"
    SERIAL_CALLS = "serial_calls"
    CLIENT_PER_REQUEST = "client_per_request"


class Severity(StrEnum):
    """How serious a finding is.

    `info` costs little, `warning` slows requests, `critical` stops other requests too or ends the process.
    """

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for the least severe."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class CallSite:
    """A line of the application's code.

    Attributes:
        file: Path of the source file as Python reports it, usually absolute.
        line: Line number.
        function: Name of the function.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        """Format as `shop/orders.py:41 in list_orders`, with the last two parts of the path."""
        parts = self.file.replace("\\", "/").split("/")
        return f"{'/'.join(parts[-2:])}:{self.line} in {self.function}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One bottleneck, with evidence and remedy.

    A detector sets the attributes up to `seconds`; the others are filled in when the finding is reported.

    Attributes:
        kind: A `Kind`, or the name of a custom detector: lower case with underscores.
        severity: How serious it is.
        subject: What it is about: a statement's summary, a function, a pool, a middleware, a cache. Use few different
            values, because findings are merged by subject.
        message: One sentence with figures.
        remedy: One sentence that says what to do.
        evidence: Details by name, in plain units (seconds, bytes).
        call_site: The line of the application that it is about; None if there is none, or if it is unknown.
        seconds: Time that all occurrences together have cost, in seconds.
        route: Route template of the request in which it was found, or `unmatched`; "" outside of routes.
        method: Method of that request, `WS` for a WebSocket; "" outside of routes.
        first_seen: Time of the first occurrence, in Unix seconds.
        last_seen: Time of the last occurrence, in Unix seconds.
        count: Number of occurrences.
        trace_ids: Hexadecimal ids of sampled traces that show it, newest last, at most 5.
    """

    kind: str
    severity: Severity
    subject: str
    message: str
    remedy: str
    evidence: Evidence = field(default_factory=dict)
    call_site: CallSite | None = None
    seconds: float = 0.0
    route: str = ""
    method: str = ""
    first_seen: float = 0.0
    last_seen: float = 0.0
    count: int = 1
    trace_ids: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """`POST /orders`; "" outside of routes."""
        return " ".join(filter(None, (self.method, self.route)))

    @property
    def fingerprint(self) -> str:
        """16 hex digits, equal for findings of the same kind, method, route, subject and line."""
        site = "" if self.call_site is None else f"{self.call_site.file}:{self.call_site.line}"
        text = f"{self.kind}\0{self.method}\0{self.route}\0{self.subject}\0{site}"
        return blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()

    def merged(self, later: "Finding") -> "Finding":
        """Merge a later finding: counts and seconds add up; the texts are those of the costlier occurrence."""
        costlier = later if later.seconds / later.count >= self.seconds / self.count else self
        fresh = (trace for trace in later.trace_ids if trace not in self.trace_ids)
        return replace(
            costlier,
            evidence={**self.evidence, **costlier.evidence},
            severity=max(self.severity, later.severity, key=lambda severity: severity.rank),
            seconds=self.seconds + later.seconds,
            first_seen=min(self.first_seen, later.first_seen),
            last_seen=max(self.last_seen, later.last_seen),
            count=self.count + later.count,
            trace_ids=(*self.trace_ids, *fresh)[-MOST_TRACES:],
        )


class FindingLog:
    """The findings of one process, merged by fingerprint.

    Keeps up to `most`. Beyond that, the finding whose last occurrence is oldest is dropped, and passed to `on_drop`.
    """

    def __init__(self, most: int, on_drop: Callable[[Finding], object] = lambda _finding: None) -> None:
        self._most = most
        self._on_drop = on_drop
        self._findings: OrderedDict[str, Finding] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, finding: Finding) -> bool:
        """Add or merge a finding; True if it is new."""
        fingerprint = finding.fingerprint
        dropped = None
        with self._lock:
            known = self._findings.pop(fingerprint, None)
            self._findings[fingerprint] = finding if known is None else known.merged(finding)
            if len(self._findings) > self._most:
                _, dropped = self._findings.popitem(last=False)
        if dropped is not None:
            self._on_drop(dropped)
        return known is None

    def annotate(self, wanted: Callable[[Finding], bool], evidence: Evidence, remedy: str = "") -> None:
        """Add later evidence, such as a query's plan, to all findings that are `wanted`, and the remedy it suggests."""
        with self._lock:
            for fingerprint, finding in self._findings.items():
                if wanted(finding):
                    self._findings[fingerprint] = replace(
                        finding, evidence={**finding.evidence, **evidence}, remedy=remedy or finding.remedy
                    )

    def findings(self) -> tuple[Finding, ...]:
        """All findings, worst first: by severity, then by the seconds they have cost."""
        with self._lock:
            found = tuple(self._findings.values())
        return tuple(sorted(found, key=lambda finding: (-finding.severity.rank, -finding.seconds, finding.kind)))

    def clear(self) -> None:
        """Drop all findings."""
        with self._lock:
            self._findings.clear()

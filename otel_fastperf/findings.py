"""What is wrong, as a value: the kinds of bottleneck, one `Finding`, and the bounded log that merges equal ones."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Final, TypeAlias

#: what stands in `Finding.evidence`: whatever an OpenTelemetry attribute can be, in plain units (seconds, bytes)
Evidence: TypeAlias = Mapping[str, str | int | float | bool | tuple[str, ...]]

#: example traces that a finding keeps, newest last
MOST_TRACES: Final = 5


class Kind(StrEnum):
    """The bottlenecks that are recognised; each has a page in docs/findings/."""

    BLOCKING_CALL = "blocking_call"
    SYNC_DB_ON_LOOP = "sync_db_on_loop"
    N_PLUS_ONE = "n_plus_one"
    SLOW_QUERY = "slow_query"
    POOL_WAIT = "pool_wait"
    THREADPOOL_WAIT = "threadpool_wait"
    SLOW_MIDDLEWARE = "slow_middleware"
    MEMORY_GROWTH = "memory_growth"
    GC_PAUSE = "gc_pause"
    CACHE_INEFFICIENT = "cache_inefficient"


class Severity(StrEnum):
    """How bad it is: `info` costs little, `warning` slows requests, `critical` stops others too or ends the process."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for the mildest."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class CallSite:
    """A line of the application's code."""

    #: as Python has it, absolute as a rule
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        """`shop/orders.py:41 in list_orders`: the last two parts of the path are enough to find it."""
        parts = self.file.replace("\\", "/").split("/")
        return f"{'/'.join(parts[-2:])}:{self.line} in {self.function}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One bottleneck that was seen, with evidence and remedy. Times are Unix seconds, `seconds` is time that it cost.

    Detectors give `kind`, `severity`, `subject`, `message`, `remedy`, `evidence`, `call_site` and `seconds`; the rest
    is filled in when the finding is reported.
    """

    #: a `Kind`, or the name of a detector of your own: lower case with underscores
    kind: str
    severity: Severity
    #: what it is about, of few possible values: a statement's summary, a function, a pool, a middleware, a cache
    subject: str
    #: one sentence with figures
    message: str
    #: one sentence that says what to do
    remedy: str
    evidence: Evidence = field(default_factory=dict)
    call_site: CallSite | None = None
    #: seconds that all occurrences together have cost
    seconds: float = 0.0
    #: the route template of the request it was seen in; "" outside of requests
    route: str = ""
    first_seen: float = 0.0
    last_seen: float = 0.0
    count: int = 1
    #: hexadecimal ids of sampled traces that show it, newest last
    trace_ids: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """16 hex digits, equal for occurrences of the same: kind, route, subject and line."""
        site = "" if self.call_site is None else f"{self.call_site.file}:{self.call_site.line}"
        text = f"{self.kind}\0{self.route}\0{self.subject}\0{site}"
        return blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()

    def merged(self, later: "Finding") -> "Finding":
        """Both as one: counts and seconds add up; the words are those of the dearer occurrence."""
        told = later if later.seconds / later.count >= self.seconds / self.count else self
        fresh = (trace for trace in later.trace_ids if trace not in self.trace_ids)
        return replace(
            told,
            evidence={**self.evidence, **told.evidence},
            severity=max(self.severity, later.severity, key=lambda severity: severity.rank),
            seconds=self.seconds + later.seconds,
            first_seen=min(self.first_seen, later.first_seen),
            last_seen=max(self.last_seen, later.last_seen),
            count=self.count + later.count,
            trace_ids=(*self.trace_ids, *fresh)[-MOST_TRACES:],
        )


class FindingLog:
    """The findings of one process, merged by fingerprint.

    Holds up to `most`. Beyond that, the finding not seen for longest is dropped, and `on_drop` is called with it.
    """

    def __init__(self, most: int, on_drop: Callable[[Finding], object] = lambda _finding: None) -> None:
        self._most = most
        self._on_drop = on_drop
        self._findings: OrderedDict[str, Finding] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, finding: Finding) -> bool:
        """Take one in; True when it is new."""
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

    def annotate(self, wanted: Callable[[Finding], bool], evidence: Evidence) -> None:
        """Add evidence that came later, such as a query's plan, to all findings that are `wanted`."""
        with self._lock:
            for fingerprint, finding in self._findings.items():
                if wanted(finding):
                    self._findings[fingerprint] = replace(finding, evidence={**finding.evidence, **evidence})

    def findings(self) -> tuple[Finding, ...]:
        """All of them, worst first: by severity, then by the seconds they have cost."""
        with self._lock:
            found = tuple(self._findings.values())
        return tuple(sorted(found, key=lambda finding: (-finding.severity.rank, -finding.seconds, finding.kind)))

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._findings.clear()

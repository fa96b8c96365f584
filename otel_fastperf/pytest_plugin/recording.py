"""What a request of a test was: taken from its record when it has ended, and frozen."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from otel_fastperf.findings import CallSite, Finding

if TYPE_CHECKING:
    from otel_fastperf.requests.view import RequestView


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One SQL statement of a request, all its executions together."""

    #: operation and tables, without values: `SELECT items`
    summary: str
    count: int
    #: sum over the executions
    seconds: float
    #: the line that ran it, where it was looked up: for repeats, and for those that are slow or held the event loop
    call_site: CallSite | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request that has ended."""

    method: str
    #: the route's template, `/orders/{order_id}`; "" if no route matched
    route: str
    path: str
    #: None if there was no response
    status: int | None
    #: from the first to the last byte
    seconds: float
    #: SQL statements that ran
    queries: int
    #: the same by statement, most repeated first
    statements: tuple[Statement, ...]
    #: what was found in it; what is seen later than its end, or belongs to no request, is in `FastPerf.findings` only
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        """`GET /orders/{order_id}`."""
        return f"{self.method} {self.route or self.path}"


@dataclass(slots=True)
class _Seen:
    """A request as far as it is known; `request` when it has ended."""

    request: Request | None = None
    findings: list[Finding] = field(default_factory=list)


class Recorder:
    """Notes requests and findings. Safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[int, float], _Seen] = {}
        self._findings: list[Finding] = []

    def ended(self, record: "RequestView") -> None:
        """Note a request that has ended."""
        request = _request(record)
        with self._lock:
            self._of(record).request = request

    def found(self, finding: Finding, record: "RequestView | None") -> None:
        """Note a finding."""
        with self._lock:
            self._findings.append(finding)
            if record is not None:
                self._of(record).findings.append(finding)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._seen.clear()
            self._findings.clear()

    def requests(self) -> tuple[Request, ...]:
        """Those that have ended."""
        with self._lock:
            return tuple(
                replace(seen.request, findings=tuple(seen.findings))
                for seen in self._seen.values()
                if seen.request is not None
            )

    def findings(self) -> tuple[Finding, ...]:
        """All of them, oldest first."""
        with self._lock:
            return tuple(self._findings)

    def _of(self, record: "RequestView") -> _Seen:
        # a record must not be kept; its address alone is soon another one's
        return self._seen.setdefault((id(record), record.started), _Seen())


def _request(record: "RequestView") -> Request:
    scope = record.scope
    return Request(
        method=scope.get("method", "GET"),
        route=record.route or "",
        path=scope.get("path", ""),
        status=record.status,
        seconds=record.seconds,
        queries=record.db_statements,
        statements=tuple(sorted(_statements(record), key=lambda each: -each.count)),
        findings=(),
    )


def _statements(record: "RequestView") -> Iterator[Statement]:
    for group in record.statements.values():
        often = max(group.lines, key=lambda line: group.lines[line][0]) if group.lines else None
        yield Statement(
            summary=group.query.summary,
            count=group.count,
            seconds=group.seconds,
            call_site=often or group.call_site or group.slow_call_site,
        )

"""The requests of a test, copied from their records when they end."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from otel_fastperf.findings import CallSite, Finding

if TYPE_CHECKING:
    from otel_fastperf.requests.view import RequestView

#: `requests.route.UNMATCHED`, whose module is slow to import
_UNMATCHED: Final = "unmatched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """All executions of one SQL statement in a request."""

    #: operation and tables, without values: `SELECT items`
    summary: str
    count: int
    #: sum over the executions
    seconds: float
    #: the line that ran it; looked up only for repeated statements, slow ones, and those that blocked the event loop
    call_site: CallSite | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One finished request."""

    #: `_OTHER` if it is not one of `requests.known_methods`, `WS` for a WebSocket
    method: str
    #: the route's template, `/orders/{order_id}`, or `unmatched`
    route: str
    path: str
    #: None if there was no response
    status: int | None
    #: from the first to the last byte
    seconds: float
    #: number of SQL statements
    queries: int
    #: most repeated first
    statements: tuple[Statement, ...]
    #: findings in the request; only `FastPerf.findings` has those after its end or outside of requests
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        """`GET /orders/{order_id}`."""
        return f"{self.method} {self.path if self.route == _UNMATCHED else self.route}"


@dataclass(slots=True)
class _Seen:
    """What is known about a request; `request` is set when it has ended."""

    request: Request | None = None
    findings: list[Finding] = field(default_factory=list)


class Recorder:
    """Records requests and findings. Safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[int, float], _Seen] = {}
        self._findings: list[Finding] = []

    def ended(self, record: "RequestView") -> None:
        """Record a finished request. A websocket is none: it lasts, and may run any number of statements."""
        if record.scope["type"] == "websocket":
            return
        request = _request(record)
        with self._lock:
            self._of(record).request = request

    def found(self, finding: Finding, record: "RequestView | None") -> None:
        """Record a finding."""
        with self._lock:
            self._findings.append(finding)
            if record is not None:
                self._of(record).findings.append(finding)

    def clear(self) -> None:
        """Remove all requests and findings."""
        with self._lock:
            self._seen.clear()
            self._findings.clear()

    def requests(self) -> tuple[Request, ...]:
        """The finished requests."""
        with self._lock:
            return tuple(
                replace(seen.request, findings=tuple(seen.findings))
                for seen in self._seen.values()
                if seen.request is not None
            )

    def findings(self) -> tuple[Finding, ...]:
        """All findings, oldest first."""
        with self._lock:
            return tuple(self._findings)

    def _of(self, record: "RequestView") -> _Seen:
        # a record must not be kept alive; its start is part of the key because addresses are reused
        return self._seen.setdefault((id(record), record.started), _Seen())


def _request(record: "RequestView") -> Request:
    scope = record.scope
    return Request(
        method=record.method,
        route=record.route or _UNMATCHED,
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

"""Budgets of a test's requests: from markers and options, with the messages of violations."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from otel_fastperf.findings import Finding, Kind
from otel_fastperf.pytest_plugin.naming import Name, Names
from otel_fastperf.pytest_plugin.recording import Request

if TYPE_CHECKING:
    from otel_fastperf.settings import Settings

#: Forbidden by a bare `@pytest.mark.fastperf`: these kinds show in tests as well, even with little data.
DEFAULT_FORBID: Final = (Kind.N_PLUS_ONE.value, Kind.BLOCKING_CALL.value, Kind.SYNC_DB_ON_LOOP.value)

#: kind of the baseline's entries for requests with too many statements
MAX_QUERIES: Final = "max_queries"
MAX_SECONDS: Final = "max_seconds"

_KIND: Final = re.compile(r"[a-z][a-z0-9_]*")
_ARGUMENTS: Final = ("max_queries", "max_seconds", "forbid", "allow")

#: maximum number of statements shown per request
_MOST_STATEMENTS: Final = 8


class Violation(NamedTuple):
    """A budget that was exceeded."""

    name: Name
    #: the message, of several lines
    text: str
    #: number of the request's statements, for `max_queries`
    queries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on the cost of each request; None and `()` set no limit."""

    max_queries: int | None = None
    #: from the first to the last byte
    max_seconds: float | None = None
    #: kinds of findings that must not be found
    forbid: tuple[str, ...] = ()

    def violations(
        self, requests: Sequence[Request], findings: Sequence[Finding], names: Names
    ) -> tuple[Violation, ...]:
        """The violations of the limits; equal ones are merged."""
        found = (
            *self._too_many_queries(requests, names),
            *self._too_slow(requests),
            *self._forbidden(findings, names),
        )
        return tuple(found)

    def unseen(self, settings: "Settings") -> Iterator[str]:
        """What the app's telemetry does not see with these settings, so that the budget would check nothing."""
        if not settings.findings.enabled:
            yield "findings (OTEL_FASTPERF_FINDINGS_ENABLED is false), and so every request"
        if self.max_queries is not None and not settings.database.enabled:
            yield "SQL statements (OTEL_FASTPERF_DATABASE_ENABLED is false)"
        for kind in self.forbid:
            if kind in settings.findings.disabled:
                yield f"{kind} (it is in OTEL_FASTPERF_FINDINGS_DISABLED)"
        if Kind.BLOCKING_CALL in self.forbid and not settings.loop.enabled:
            yield "blocking_call (OTEL_FASTPERF_LOOP_ENABLED is false)"

    def _too_many_queries(self, requests: Sequence[Request], names: Names) -> Iterator[Violation]:
        if self.max_queries is None:
            return
        over = [request for request in requests if request.queries > self.max_queries]
        for worst, times in _worst(over, lambda request: request.queries):
            head = f"{worst}: {worst.queries} SQL statements, at most {self.max_queries}{_times(times)}"
            name = Name(MAX_QUERIES, worst.method, worst.route, "", "", "")
            yield Violation(name, "\n".join((head, *_statements(worst, names))), worst.queries)

    def _too_slow(self, requests: Sequence[Request]) -> Iterator[Violation]:
        if self.max_seconds is None:
            return
        over = [request for request in requests if request.seconds > self.max_seconds]
        for worst, times in _worst(over, lambda request: request.seconds):
            text = f"{worst}: {worst.seconds:.3f} s, at most {self.max_seconds:g} s{_times(times)}"
            yield Violation(Name(MAX_SECONDS, worst.method, worst.route, "", "", ""), text)

    def _forbidden(self, findings: Sequence[Finding], names: Names) -> Iterator[Violation]:
        merged: dict[Name, Finding] = {}
        for finding in findings:
            if finding.kind in self.forbid:
                name = names.of(finding)
                merged[name] = merged[name].merged(finding) if name in merged else finding
        for name, finding in merged.items():
            yield Violation(name, _finding(finding, names))


def told(violations: Iterable[Violation]) -> str:
    """The message of a failing test."""
    return "\n\n".join(("fastperf: over the budget.", *(violation.text for violation in violations)))


def budget_of(item: pytest.Item, default: Limits) -> Limits | None:
    """The budget of a test with a marker; each argument is that of the closest marker that has it, or the option's.

    Raises:
        pytest.UsageError: A marker is wrong; the message names the test and the remedy.
    """
    given: dict[str, Any] = {}
    markers = list(item.iter_markers("fastperf"))
    for marker in markers:
        unknown = [*map(repr, marker.args), *(name for name in marker.kwargs if name not in _ARGUMENTS)]
        if unknown:
            message = (
                f"{item.nodeid}: @pytest.mark.fastperf does not take {', '.join(unknown)}."
                f" Remedy: use {', '.join(_ARGUMENTS)}, by name."
            )
            raise pytest.UsageError(message)
        given = {**marker.kwargs, **given}
    if not markers:
        return None
    where = f"{item.nodeid}: @pytest.mark.fastperf"
    forbid = checked_kinds(given.get("forbid", default.forbid or DEFAULT_FORBID), f"{where}(forbid=…)")
    allow = checked_kinds(given.get("allow", ()), f"{where}(allow=…)")
    return Limits(
        max_queries=given.get("max_queries", default.max_queries),
        max_seconds=given.get("max_seconds", default.max_seconds),
        forbid=tuple(kind for kind in forbid if kind not in allow),
    )


def checked_kinds(kinds: str | Iterable[str], where: str) -> tuple[str, ...]:
    """Kinds of findings as a tuple. Kinds of the user's own detectors pass; misspelt ones of ours do not.

    Raises:
        pytest.UsageError: A kind is misspelt; the message names the remedy.
    """
    given = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    known = [kind.value for kind in Kind]
    for kind in given:
        near = difflib.get_close_matches(kind, known, n=1, cutoff=0.75)
        if not _KIND.fullmatch(kind) or (near and kind not in known):
            remedy = near[0] if near else f"one of {', '.join(known)}, or the kind of your own detector"
            message = f"{where}: {kind!r} is not a kind of finding. Remedy: use {remedy}."
            raise pytest.UsageError(message)
    return tuple(str(kind) for kind in given)


def _worst(requests: list[Request], cost: Any) -> Iterator[tuple[Request, int]]:
    """The worst request of each method and route, and their number."""
    groups: dict[tuple[str, str], list[Request]] = {}
    for request in requests:
        groups.setdefault((request.method, request.route), []).append(request)
    for group in groups.values():
        yield max(group, key=cost), len(group)


def _times(times: int) -> str:
    return f" (the worst of {times} requests)" if times > 1 else ""


def _statements(request: Request, names: Names) -> Iterator[str]:
    for statement in request.statements[:_MOST_STATEMENTS]:
        site = "" if statement.call_site is None else f"  at {names.site(statement.call_site)}"
        yield f"    {statement.count:4} x {statement.summary}{site}"
    hidden = request.statements[_MOST_STATEMENTS:]
    if hidden:
        yield f"    {sum(statement.count for statement in hidden):4} x {len(hidden)} other statements"


def _finding(finding: Finding, names: Names) -> str:
    lines = [
        f"{finding.kind}{f' in {finding.where}' if finding.route else ''}{_occurrences(finding.count)}",
        f"    {finding.message}",
    ]
    if finding.call_site is not None:
        lines.append(f"    At {names.site(finding.call_site)}")
    lines.append(f"    Remedy: {finding.remedy}")
    return "\n".join(lines)


def _occurrences(count: int) -> str:
    return f", {count} times" if count > 1 else ""

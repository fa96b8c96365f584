"""Findings that follow from others: they are told with their cause, and are no findings of their own.

Pure. What a blocked event loop causes is no finding to begin with (see `Delays.unexplained_seconds`). These need more
than one finding to be known:

- Threads are occupied at a line that has a finding: whoever waits for a thread waits for what happens there.
- Connections are kept for as long as a route's statements take, and these have a finding.
- The collector walks the objects that a large result was made into, or, in whatever runs then, those of a route that
  makes too many.
- Several routes wait for the same: one of them is told, the one at fault if it waits too.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from otel_fastperf.findings import Finding, Kind

#: share of the time for which a connection was kept from which a route's statements explain it
_EXPLAINS: Final = 0.5
#: kinds that keep a connection busy if they are about statements
_OF_STATEMENTS: Final = frozenset({Kind.SLOW_QUERY, Kind.N_PLUS_ONE, Kind.LARGE_RESULT, Kind.LOCK_WAIT})


class Told(NamedTuple):
    """What is told, and how.

    Attributes:
        findings: Those with a cause of their own. None is less severe than its consequences.
        consequences: Those that follow from them, by the fingerprint of the cause.
    """

    findings: tuple[Finding, ...]
    consequences: Mapping[str, tuple[Finding, ...]]


def told(findings: Sequence[Finding]) -> Told:
    """Tell causes from consequences, and keep the order of both."""
    causes = {finding.fingerprint: cause for finding in findings if (cause := _cause(finding, findings)) is not None}
    consequences: dict[str, tuple[Finding, ...]] = {}
    for finding in findings:
        if finding.fingerprint in causes:
            root = _root(finding, causes).fingerprint
            consequences[root] = (*consequences.get(root, ()), finding)
    own = (finding for finding in findings if finding.fingerprint not in causes)
    return Told(tuple(_as_severe(finding, consequences.get(finding.fingerprint, ())) for finding in own), consequences)


def _root(finding: Finding, causes: Mapping[str, Finding]) -> Finding:
    # from threads over connections to statements, and from victims to the first of them: it ends
    while finding.fingerprint in causes:
        finding = causes[finding.fingerprint]
    return finding


def _as_severe(finding: Finding, consequences: Sequence[Finding]) -> Finding:
    severity = max((each.severity for each in (finding, *consequences)), key=lambda severity: severity.rank)
    return finding if severity is finding.severity else replace(finding, severity=severity)


def _cause(finding: Finding, findings: Sequence[Finding]) -> Finding | None:
    causes = _CAUSES.get(finding.kind)
    if causes is None:
        return None
    cause = max((other for other in findings if causes(finding, other)), key=lambda other: other.seconds, default=None)
    return cause or _first_of_victims(finding, findings)


def _first_of_victims(finding: Finding, findings: Sequence[Finding]) -> Finding | None:
    """Of the findings of several routes that wait for the same, the one to be told; None if it is this one."""
    waited_for = _waited_for(finding)
    if waited_for is None:
        return None
    victims = [other for other in findings if _waited_for(other) == waited_for]
    first = max(victims, key=lambda other: (_is_at_fault(other), other.seconds, other.fingerprint))
    return None if first.fingerprint == finding.fingerprint else first


def _waited_for(finding: Finding) -> Hashable | None:
    if finding.kind == Kind.THREADPOOL_WAIT and finding.call_site is not None:
        return Kind.THREADPOOL_WAIT, finding.call_site
    if finding.kind == Kind.POOL_WAIT and "held_by" in finding.evidence:
        return Kind.POOL_WAIT, finding.subject, finding.evidence["held_by"]
    return None


def _is_at_fault(finding: Finding) -> bool:
    """Its own route occupies what it waits for."""
    return finding.where == finding.evidence.get("held_by")


def _occupies_threads(wait: Finding, other: Finding) -> bool:
    """The line that was seen to occupy the threads has a finding."""
    site, line = wait.call_site, other.call_site
    if site is None or line is None or other.kind == Kind.THREADPOOL_WAIT:
        return False
    return (site.file, site.line) == (line.file, line.line)


def _keeps_connections(wait: Finding, other: Finding) -> bool:
    """The statements of the route that has the connections take most of the time for which it has them."""
    held = wait.evidence.get("held_seconds")
    runs = other.kind == Kind.SLOW_COMMIT or (other.kind in _OF_STATEMENTS and "db.query.summary" in other.evidence)
    if not runs or not isinstance(held, float):
        return False
    return other.where == wait.evidence.get("held_by") and other.seconds / other.count >= _EXPLAINS * held


def _fills_memory(pause: Finding, other: Finding) -> bool:
    """The objects that the collector walks are the rows of a large result, or those of a route that is known."""
    if other.kind == Kind.GC_PAUSE:
        return not (pause.route or pause.evidence.get("explicit")) and "in_route" in other.evidence
    return other.kind == Kind.LARGE_RESULT and bool(other.route) and other.where == pause.where


_CAUSES: Final[Mapping[str, Callable[[Finding, Finding], bool]]] = {
    Kind.THREADPOOL_WAIT: _occupies_threads,
    Kind.POOL_WAIT: _keeps_connections,
    Kind.GC_PAUSE: _fills_memory,
}

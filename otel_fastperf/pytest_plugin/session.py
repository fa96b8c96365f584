"""The results of a test run over all its worker processes, the summary at its end and the report."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.pytest_plugin.naming import Name, Names
from otel_fastperf.pytest_plugin.recording import Request

#: maximum number of findings in the summary
_MOST_SHOWN: Final = 10

_VERSION: Final = 1


@dataclass(slots=True)
class RouteFigures:
    """Requests of one method and route, in all tests."""

    requests: int = 0
    #: maximum of a request
    queries: int = 0
    #: maximum of a request
    seconds: float = 0.0

    def add(self, other: "RouteFigures") -> None:
        """Merge the numbers of another process or test."""
        self.requests += other.requests
        self.queries = max(self.queries, other.queries)
        self.seconds = max(self.seconds, other.seconds)


@dataclass(slots=True)
class Session:
    """The findings, requests and violations of a test run."""

    findings: dict[Name, Finding] = field(default_factory=dict)
    #: the tests in which each finding was seen
    tests: dict[Name, list[str]] = field(default_factory=dict)
    #: by method and route
    routes: dict[tuple[str, str], RouteFigures] = field(default_factory=dict)
    #: exceeded budgets, with the number of statements of a request that had too many
    exceeded: dict[Name, int] = field(default_factory=dict)

    def note(self, test: str, requests: Iterable[Request], findings: Iterable[Finding], names: Names) -> None:
        """Add the requests and findings of a test."""
        for request in requests:
            route = self.routes.setdefault((request.method, request.route), RouteFigures())
            route.add(RouteFigures(1, request.queries, request.seconds))
        for finding in findings:
            self._add(names.of(finding), finding, [test])

    def exceed(self, exceeded: Mapping[Name, int]) -> None:
        """Add exceeded budgets."""
        for name, queries in exceeded.items():
            self.exceeded[name] = max(queries, self.exceeded.get(name, 0))

    def merge(self, other: "Session") -> None:
        """Add the results of another process."""
        for name, finding in other.findings.items():
            self._add(name, finding, other.tests[name])
        for key, route in other.routes.items():
            self.routes.setdefault(key, RouteFigures()).add(route)
        self.exceed(other.exceeded)

    def seen(self) -> set[Name]:
        """The names of all findings and exceeded budgets."""
        return {*self.findings, *self.exceeded}

    def requested(self) -> set[tuple[str, str]]:
        """Method and template of the requested routes."""
        return set(self.routes)

    def worst_first(self) -> list[tuple[Name, Finding]]:
        """Findings by severity, then by count."""
        return sorted(self.findings.items(), key=lambda each: (-each[1].severity.rank, -each[1].count, each[0]))

    def dumps(self) -> str:
        """The session as text, for the main process."""
        return json.dumps(
            {
                "findings": [[name, asdict(finding), self.tests[name]] for name, finding in self.findings.items()],
                "routes": [[key, asdict(route)] for key, route in self.routes.items()],
                "exceeded": list(self.exceeded.items()),
            }
        )

    def _add(self, name: Name, finding: Finding, tests: Sequence[str]) -> None:
        known = self.findings.get(name)
        self.findings[name] = finding if known is None else known.merged(finding)
        of_it = self.tests.setdefault(name, [])
        of_it.extend(test for test in tests if test not in of_it)


def loads(text: str) -> Session:
    """The session from the text that `Session.dumps` of another process returned."""
    content = json.loads(text)
    session = Session()
    for name, finding, tests in content["findings"]:
        session.findings[Name(*name)] = _finding(finding)
        session.tests[Name(*name)] = tests
    session.routes = {(method, route): RouteFigures(**figures) for (method, route), figures in content["routes"]}
    session.exceeded = {Name(*name): queries for name, queries in content["exceeded"]}
    return session


def report(session: Session, known: Collection[Name], names: Names) -> str:
    """The report as JSON: all findings, worst first, and the maxima of each route's requests."""
    routes = [
        {"method": method, "route": route, **asdict(figures)}
        for (method, route), figures in sorted(session.routes.items(), key=lambda each: (each[0][1], each[0][0]))
    ]
    findings = [_row(name, finding, session, known, names) for name, finding in session.worst_first()]
    return (
        json.dumps({"version": _VERSION, "findings": findings, "routes": routes}, indent=2, ensure_ascii=False) + "\n"
    )


def summary(session: Session, known: Collection[Name], names: Names) -> Iterator[str]:
    """One line for each of the worst findings."""
    findings = session.worst_first()
    for name, finding in findings[:_MOST_SHOWN]:
        where = "" if finding.call_site is None else f", {names.site(finding.call_site)}"
        tests = len(session.tests[name])
        notes = f"{tests} test{'s' if tests > 1 else ''}{', known' if name in known else ''}"
        yield f"{finding.kind} {finding.where or 'outside of routes'}: {finding.subject}{where} ({notes})"
    if len(findings) > _MOST_SHOWN:
        yield f"and {len(findings) - _MOST_SHOWN} more; --fastperf-report=FILE.json writes all of them"


def _row(name: Name, finding: Finding, session: Session, known: Collection[Name], names: Names) -> dict[str, Any]:
    site = finding.call_site
    return {
        "kind": str(finding.kind),
        "severity": finding.severity.value,
        "method": finding.method,
        "route": finding.route,
        "subject": finding.subject,
        "message": finding.message,
        "remedy": finding.remedy,
        "file": "" if site is None else names.file(site.file),
        "line": None if site is None else site.line,
        "function": "" if site is None else site.function,
        "count": finding.count,
        "seconds": finding.seconds,
        "evidence": dict(finding.evidence),
        "known": name in known,
        "tests": sorted(session.tests[name]),
    }


def _finding(fields: dict[str, Any]) -> Finding:
    site = fields["call_site"]
    return Finding(
        **{
            **fields,
            "severity": Severity(fields["severity"]),
            "call_site": None if site is None else CallSite(**site),
            "trace_ids": tuple(fields["trace_ids"]),
        }
    )

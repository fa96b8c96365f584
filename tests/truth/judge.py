"""Compares a report with what is true."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from otel_fastperf import Finding, Report, RouteVerdict
from tests.truth.catalogue import Variant
from tests.truth.header import Expected


@dataclass(frozen=True, slots=True)
class Judgement:
    """One row of the table: what was found, and every way in which it is wrong."""

    variant: Variant
    found: tuple[str, ...] = ()
    line: bool | None = None
    remedy: bool | None = None
    largest: str = ""
    wrong: tuple[str, ...] = ()


def judge(variant: Variant, report: Report, text: str) -> Judgement:
    """Judge the report of a variant, and the same report as text."""
    truth = variant.app.truth
    expected = () if variant.healthy else truth.expected
    matched = {one: [finding for finding in report.findings if _is(finding, one)] for one in expected}
    lines = [_line_wrong(variant, one, found) for one, found in matched.items() if found]
    remedies = [_remedy_wrong(one, found) for one, found in matched.items() if found]
    segment, wrong_segment = _largest(variant, report)
    return Judgement(
        variant,
        found=tuple(_told(finding) for finding in report.findings),
        line=None if not lines else not any(lines),
        remedy=None if not remedies else not any(remedies),
        largest=segment,
        wrong=tuple(
            filter(
                None,
                (
                    *(f"missed: {one.kind}; the doctor said: {text}" for one, found in matched.items() if not found),
                    *(f"false: {_full(finding)}" for finding in _false(variant, report, expected)),
                    *(
                        f"too many: {one.kind} is told {len(found)} times: {', '.join(map(_full, found))}"
                        for one, found in matched.items()
                        if one.most and len(found) > one.most
                    ),
                    *lines,
                    *remedies,
                    wrong_segment,
                    *_verdict_wrong(variant, " ".join(text.split())),
                ),
            )
        ),
    )


def _is(finding: Finding, expected: Expected) -> bool:
    return finding.kind in expected.kind.split("|") and expected.route in {
        "",
        finding.route,
        getattr(finding, "where", ""),
    }


def _false(variant: Variant, report: Report, expected: Iterable[Expected]) -> Iterator[Finding]:
    also = () if variant.healthy else variant.app.truth.also
    for finding in report.findings:
        if finding.kind not in also and not any(_is(finding, one) for one in expected):
            yield finding


def _place(finding: Finding) -> str:
    site = finding.call_site
    return "no line" if site is None else f"{Path(site.file).name}:{site.line}"


def _told(finding: Finding) -> str:
    return f"{finding.kind} at {_place(finding)}"


def _full(finding: Finding) -> str:
    return f"{_told(finding)} [{finding.severity}, {finding.route or 'no route'}, x{finding.count}] {finding.message}"


def _line_wrong(variant: Variant, expected: Expected, found: list[Finding]) -> str:
    """Every finding that matches must name one of the marked lines, since each would be read."""
    mark = expected.line or "?"
    right = variant.app.marks.get(mark.rstrip("?"), frozenset())
    if mark.endswith("?"):
        right |= {"no line"}
    for finding in found:
        if _place(finding) not in right:
            return f"line: {_full(finding)}; expected {', '.join(sorted(right))}"
    return ""


def _remedy_wrong(expected: Expected, found: list[Finding]) -> str:
    for finding in found:
        for pattern in expected.remedy:
            if not re.search(pattern, finding.remedy, re.IGNORECASE):
                return f"remedy: no {pattern!r} in {finding.remedy!r}"
        for pattern in expected.message:
            if not re.search(pattern, finding.message, re.IGNORECASE):
                return f"message: no {pattern!r} in {finding.message!r}"
        for pattern in expected.wrong:
            if re.search(pattern, f"{finding.message} {finding.remedy}", re.IGNORECASE):
                return f"remedy: {pattern!r} is wrong in {finding.message!r} {finding.remedy!r}"
    return ""


def _largest(variant: Variant, report: Report) -> tuple[str, str]:
    truth = variant.app.truth
    route = _route(truth.route, report)
    if route is None:
        return "", f"no route {truth.route}"
    segments = route.segments
    largest = max(segments, key=segments.__getitem__, default="")
    share = segments.get(largest, 0.0) / (sum(segments.values()) or 1.0)
    told = f"{largest} {share:.0%}"
    right = truth.healthy_largest if variant.healthy else truth.largest
    wrong = f"largest segment: {told} of {dict(segments)}; expected {right}"
    return told, wrong if right and largest not in right.split("|") else ""


def _route(name: str, report: Report) -> RouteVerdict | None:
    return next((route for route in report.routes if name in {"", f"{route.method} {route.route}"}), None)


def _with_lines(variant: Variant, pattern: str) -> str:
    """`{mark}` becomes a pattern for the lines with that mark."""
    for mark, lines in variant.app.marks.items():
        pattern = pattern.replace(f"{{{mark}}}", f"(?:{'|'.join(map(re.escape, lines))})")
    return pattern


def _verdict_wrong(variant: Variant, text: str) -> Iterator[str]:
    if variant.healthy:
        return
    for written in variant.app.truth.verdict:
        pattern = _with_lines(variant, written)
        if not re.search(pattern, text, re.IGNORECASE):
            yield f"verdict: no {pattern!r} in {text!r}"
    for pattern in variant.app.truth.wrong_verdict:
        if re.search(pattern, text, re.IGNORECASE):
            yield f"verdict: {pattern!r} is wrong in {text!r}"

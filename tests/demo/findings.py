"""The findings of a run of the shop in which a client called every bottleneck and every fixed twin."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.catalogue import CATALOGUE, Bottleneck
from otel_fastperf import Finding, Kind, Report
from tests.demo.clients import call_everything
from tests.serving import Command, run_server

#: kinds that are not about a single request
OF_THE_PROCESS = {Kind.MEMORY_GROWTH, Kind.CACHE_INEFFICIENT}


@dataclass(frozen=True)
class Findings:
    """The findings after every endpoint was called."""

    findings: tuple[Finding, ...]

    def in_route(self, route: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.route == route]

    def kinds_in(self, route: str) -> set[str]:
        return {finding.kind for finding in self.in_route(route)}

    def at(self, bottleneck: Bottleneck) -> list[Finding]:
        """The findings at the line to blame."""
        file, line = bottleneck.line()
        sites = [(finding, finding.call_site) for finding in self.findings]
        return [each for each, site in sites if site is not None and (site.file, site.line) == (file, line)]

    def kinds_of_the_process(self) -> list[str]:
        # the collector may also start on its own while the faulty endpoint of `gc_pause` builds its graph
        return sorted(finding.kind for finding in self.in_route("") if finding.kind != Kind.GC_PAUSE)

    def wrong(self) -> list[str]:
        """Missing and unexpected findings; empty if every fault and no twin was found."""
        return [
            *(f"no {one.kind} at {one.faulty}" for one in CATALOGUE if self.kinds_in(one.faulty) != expected(one)),
            *(f"not once: the line of {one.name}" for one in CATALOGUE if len(self.at(one)) != 1),
            *(f"a finding in {one.fixed}" for one in CATALOGUE if self.in_route(one.fixed)),
            *(["of the process"] if self.kinds_of_the_process() != sorted(OF_THE_PROCESS) else []),
        ]


def expected(bottleneck: Bottleneck) -> set[str]:
    """Kinds that the faulty route must have."""
    return set() if bottleneck.kind in OF_THE_PROCESS else {bottleneck.kind}


@contextmanager
def served(folder: Path, database: str, loop: str, environ: Mapping[str, str] | None = None) -> Iterator[Command]:
    """Run the shop under uvicorn, in a separate process."""
    command = ["uvicorn", "demo.app:app", "--port", "{port}", "--loop", loop, "--log-level", "error"]
    variables = {"DATABASE_URL": database, **(environ or {})}
    with run_server(command, log=folder / "shop.log", environment=variables) as shop:
        yield shop


def findings_of(shop: Command) -> tuple[Finding, ...]:
    """Read the findings like `otel-fastperf doctor` does."""
    return Report.from_json(shop.get("/debug/fastperf").text).findings


def findings_of_a_run(folder: Path, database: str, loop: str, environ: Mapping[str, str] | None = None) -> Findings:
    """Call everything once, and again if something was wrong: a busy machine adds waits."""
    first = _findings_of_one_run(folder, database, loop, environ)
    return _findings_of_one_run(folder, database, loop, environ) if first.wrong() else first


def _findings_of_one_run(folder: Path, database: str, loop: str, environ: Mapping[str, str] | None) -> Findings:
    with served(folder, database, loop, environ) as shop:
        asyncio.run(call_everything(shop.url))
        return Findings(findings_of(shop))

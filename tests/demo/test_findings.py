"""Each faulty endpoint of the demo yields exactly its finding, with the right line; each fixed twin yields none.

The shop runs as its users run it, in a process of its own, on either database and either event loop; a few shoppers use
it meanwhile. What was found is asked for as `otel-fastperf doctor` does.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import make_url

from demo.catalogue import CATALOGUE, Bottleneck
from demo.load import Load, Plan
from demo.seed import clear
from otel_fastperf import Finding, Kind, Report
from tests.demo.asking import ask_everything
from tests.postgresql import postgresql_url
from tests.serving import Command, run_server

__all__ = ["postgresql_url"]

#: what no single request shows
OF_THE_PROCESS = {Kind.MEMORY_GROWTH, Kind.CACHE_INEFFICIENT}

every_bottleneck = pytest.mark.parametrize("bottleneck", CATALOGUE, ids=lambda bottleneck: bottleneck.name)


@dataclass(frozen=True)
class Run:
    """What was found, once every endpoint had been asked."""

    findings: tuple[Finding, ...]

    def in_route(self, route: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.route == route]

    def kinds_in(self, route: str) -> set[str]:
        return {finding.kind for finding in self.in_route(route)}

    def at(self, bottleneck: Bottleneck) -> list[Finding]:
        """Those that name the line to blame."""
        file, line = bottleneck.line()
        sites = [(finding, finding.call_site) for finding in self.findings]
        return [each for each, site in sites if site is not None and (site.file, site.line) == (file, line)]


def served(tmp_path: Path, database: str, loop: str) -> Iterator[Command]:
    command = ["uvicorn", "demo.app:app", "--port", "{port}", "--loop", loop, "--log-level", "error"]
    with run_server(command, log=tmp_path / "shop.log", environment={"DATABASE_URL": database}) as shop:
        yield shop


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('shop')}/shop.sqlite3"
        return
    url: str = request.getfixturevalue("postgresql_url")
    yield url
    # the server is shared with other tests
    clear(make_url(url))


@pytest.fixture(params=["asyncio", "uvloop"], scope="module")
def run(request: pytest.FixtureRequest, database: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run for all tests below; a second one if something was amiss, since a busy machine has waits of its own."""
    one = a_run(request.param, database, tmp_path_factory.mktemp("log"))
    return a_run(request.param, database, tmp_path_factory.mktemp("log")) if amiss(one) else one


def a_run(loop: str, database: str, folder: Path) -> Run:
    for shop in served(folder, database, loop):
        asyncio.run(ask_everything(shop.url))
        return Run(found(shop))
    raise AssertionError


def amiss(run: Run) -> bool:
    """True if one of the tests would fail."""
    return kinds_of_the_process(run) != sorted(OF_THE_PROCESS) or any(
        run.kinds_in(one.faulty) != expected(one) or len(run.at(one)) != 1 or run.in_route(one.fixed)
        for one in CATALOGUE
    )


def expected(bottleneck: Bottleneck) -> set[str]:
    return set() if bottleneck.kind in OF_THE_PROCESS else {bottleneck.kind}


def kinds_of_the_process(run: Run) -> list[str]:
    # the collector of garbage may also run by itself while the faulty endpoint of `gc_pause` builds its graph
    return sorted(finding.kind for finding in run.in_route("") if finding.kind != Kind.GC_PAUSE)


def found(shop: Command) -> tuple[Finding, ...]:
    return Report.from_json(shop.get("/debug/fastperf").text).findings


@every_bottleneck
def test_a_faulty_endpoint_yields_exactly_its_finding(run: Run, bottleneck: Bottleneck) -> None:
    assert run.kinds_in(bottleneck.faulty) == expected(bottleneck)


@every_bottleneck
def test_the_finding_names_the_line_and_a_remedy(run: Run, bottleneck: Bottleneck) -> None:
    at = run.at(bottleneck)
    assert [finding.kind for finding in at] == [bottleneck.kind], run.findings
    assert at[0].remedy
    assert at[0].evidence


@every_bottleneck
def test_its_fixed_twin_yields_none(run: Run, bottleneck: Bottleneck) -> None:
    assert run.in_route(bottleneck.fixed) == []


def test_what_no_request_shows_is_found_once(run: Run) -> None:
    assert kinds_of_the_process(run) == sorted(OF_THE_PROCESS)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_healthy_shop_has_no_findings(loop: str, database: str, tmp_path: Path) -> None:
    """Under load; none from start-up and health checks either."""
    for shop in served(tmp_path, database, loop):
        load = Load(Plan(shoppers=4, pause=0.05, troubles=False))
        asyncio.run(load.run(shop.url, 12))
        shop.get("/health")
        assert [(finding.route, finding.message, finding.evidence) for finding in found(shop)] == []
        assert load.outcomes.total() > 100

"""Each faulty endpoint of the demo yields exactly its finding, with the right line; each fixed twin yields none.

The shop runs in a separate process, on either database and either event loop, while a few shoppers use it.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from demo.catalogue import CATALOGUE, Bottleneck
from demo.load import Load, Plan
from demo.seed import clear
from tests.demo.findings import OF_THE_PROCESS, Findings, expected, findings_of, findings_of_a_run, served
from tests.postgresql import postgresql_url

#: a run of all bottlenecks takes a minute, and is repeated once if something was wrong
pytestmark = pytest.mark.timeout(300)

__all__ = ["postgresql_url"]

every_bottleneck = pytest.mark.parametrize("bottleneck", CATALOGUE, ids=lambda bottleneck: bottleneck.name)


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
def run(request: pytest.FixtureRequest, database: str, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """One run for all tests below."""
    return findings_of_a_run(tmp_path_factory.mktemp("log"), database, request.param)


@every_bottleneck
def test_a_faulty_endpoint_yields_exactly_its_finding(run: Findings, bottleneck: Bottleneck) -> None:
    assert run.kinds_in(bottleneck.faulty) == expected(bottleneck)


@every_bottleneck
def test_the_finding_names_the_line_and_a_remedy(run: Findings, bottleneck: Bottleneck) -> None:
    at = run.at(bottleneck)
    assert [finding.kind for finding in at] == [bottleneck.kind], run.findings
    assert at[0].remedy
    assert at[0].evidence


@every_bottleneck
def test_a_fixed_twin_yields_no_finding(run: Findings, bottleneck: Bottleneck) -> None:
    assert run.in_route(bottleneck.fixed) == []


def test_kinds_of_the_process_are_found_once(run: Findings) -> None:
    assert run.kinds_of_the_process() == sorted(OF_THE_PROCESS)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_healthy_shop_has_no_findings(loop: str, database: str, tmp_path: Path) -> None:
    """Load, start-up and health checks cause none."""
    with served(tmp_path, database, loop) as shop:
        load = Load(Plan(shoppers=4, pause=0.05, troubles=False))
        asyncio.run(load.run(shop.url, 12))
        shop.get("/health")
        assert [(finding.route, finding.message, finding.evidence) for finding in findings_of(shop)] == []
        assert load.outcomes.total() > 100

"""docs/migrate: both sides of each page run, and what its table names arrives on the side that it names.

The rules for the old names of prometheus-fastapi-instrumentator give what it counts itself.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.migration.sides import ROOT, Side, blocks_of

PAGES: Final = {
    "docs/migrate/contrib.md": "opentelemetry.instrumentation.fastapi",
    "docs/migrate/fastapi.md": "fastapi.telemetry",
    "docs/migrate/instrumentator.md": "prometheus_fastapi_instrumentator",
    "docs/migrate/logfire.md": "logfire",
    "docs/migrate/sentry.md": "sentry_sdk",
}
INSTALLED: Final = [page for page, package in PAGES.items() if find_spec(package) is not None]
INSTRUMENTATOR: Final = "docs/migrate/instrumentator.md"
#: the library does not see the body of a 500 that Starlette writes for an exception
SELECTED: Final = {"http_response_size_bytes_sum": '{handler!="/broken"}'}
RULES: Final = ROOT / "docs/migrate/instrumentator-rules.yml"

Told = Mapping[str, Any]


class Sides:
    """What arrived, by page and blocks of code. All of them run in one go."""

    def __init__(self, folder: Path) -> None:
        sides = [Side(page, (number,), "") for page in INSTALLED for number in range(len(blocks_of(page, "python")))]
        sides += [Side(INSTRUMENTATOR, (0, 1), "")] if INSTRUMENTATOR in INSTALLED else []
        files = {(side.page, side.blocks): folder / f"{number}.json" for number, side in enumerate(sides)}
        cases = [(*side, str(file)) for side, file in files.items()]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.migration.sides", json.dumps(cases)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self._told = {side: json.loads(file.read_text()) for side, file in files.items()}

    def told(self, page: str, *blocks: int) -> Told:
        told: Told = self._told[page, blocks]
        return told

    def after(self, page: str) -> list[Told]:
        """What arrived with each of the wirings that come after the first one."""
        return [told for (of, blocks), told in self._told.items() if of == page and blocks[0]]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    return Sides(tmp_path_factory.mktemp("sides"))


def names_in(told: Told) -> set[str]:
    """Everything that has a name: spans, attributes, metrics, labels and their values."""
    names = {*told["metrics"], *(name for item in told["sentry"] for name in item)}
    names.update(name for _kind, *of_span in told["spans"] for name in of_span)
    for page in told["pages"]:
        for family in text_string_to_metric_families(page):
            names.add(family.name)
            for sample in family.samples:
                names |= {sample.name, *sample.labels, *sample.labels.values()}
    return names


@cache
def table(page: str) -> tuple[tuple[str, str], ...]:
    """The rows of the table of names: before, after."""
    section = (ROOT / page).read_text().partition("\n## Names\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| (.+) \|$", section, re.MULTILINE)
    assert rows[0] == ("before", "after")
    return tuple(rows[2:])


def quoted(cell: str) -> Iterator[str]:
    yield from re.findall(r"`([^`]+)`", cell)


def test_each_page_is_tested() -> None:
    assert sorted(PAGES) == sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/migrate/*.md"))
    missing = [PAGES[page] for page in PAGES if page not in INSTALLED]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: `make test-matrix ENVS=wirings` has them")


@pytest.mark.parametrize("page", INSTALLED)
def test_what_the_table_names_arrives_before_and_after(page: str, sides: Sides) -> None:
    before = names_in(sides.told(page, 0))
    assert [name for row in table(page) for name in quoted(row[0]) if name not in before] == []
    for told in sides.after(page):
        after = names_in(told)
        assert [name for row in table(page) for name in quoted(row[1]) if name not in after] == []


@pytest.mark.parametrize("page", INSTALLED)
def test_each_request_has_one_server_span_afterwards(page: str, sides: Sides) -> None:
    for told in sides.after(page):
        requests = sorted(name for kind, name, *_ in told["spans"] if kind == "SERVER" and "metrics" not in name)
        assert requests[-3:] == ["GET /broken", "GET /items/{item_id}", "GET /items/{item_id}"]
        assert [name for kind, name, *_ in told["spans"] if kind == "CLIENT"] == ["SELECT", "SELECT"]


needs_instrumentator = pytest.mark.skipif(INSTRUMENTATOR not in INSTALLED, reason="the library is not installed")


@needs_instrumentator
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_old_names_recorded_by_the_rules_have_the_values_of_the_library(sides: Sides, tmp_path: Path) -> None:
    theirs, ours = sides.told(INSTRUMENTATOR, 0, 1)["pages"]
    # our page has theirs on it, and scrapes of their page are requests to us
    measured = [
        sample
        for sample in samples(ours)
        if sample.name.startswith("http_server_") and sample.labels.get("http_route") != "/metrics"
    ]
    series = [{"series": written(sample), "values": f"{sample.value}x2"} for sample in measured]
    expected = [sample for sample in samples(theirs) if is_comparable(sample, bounds_of(measured))]
    assert len(expected) > 40
    by_name: dict[str, list[dict[str, Any]]] = {}
    for sample in expected:
        by_name.setdefault(sample.name, []).append({"labels": written(sample), "value": sample.value})
    tests = [
        {"expr": f"{name}{SELECTED.get(name, '')}", "eval_time": "1m", "exp_samples": found}
        for name, found in by_name.items()
    ]
    case = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}],
    }
    file = tmp_path / "case.yml"
    file.write_text(yaml.safe_dump(case))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_instrumentator
def test_the_rules_record_every_metric_of_the_library(sides: Sides) -> None:
    recorded = {rule["record"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    theirs = {sample.name for sample in samples(sides.told(INSTRUMENTATOR, 0)["pages"][0]) if is_of_requests(sample)}
    assert recorded == theirs


def samples(page: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(page) for sample in family.samples]


def written(sample: Sample) -> str:
    return sample.name + "{" + ",".join(f'{name}="{value}"' for name, value in sample.labels.items()) + "}"


def is_of_requests(sample: Sample) -> bool:
    return sample.name.startswith("http_") and not sample.name.endswith("_created")


def bounds_of(measured: list[Sample]) -> set[str]:
    return {sample.labels["le"] for sample in measured if sample.name == "http_server_request_duration_seconds_bucket"}


def is_comparable(sample: Sample, bounds: set[str]) -> bool:
    """Whether both know it: not buckets that only one of them has, nor durations, which differ by microseconds."""
    if not is_of_requests(sample) or sample.name.endswith("_seconds_sum"):
        return False
    if sample.name in SELECTED and sample.labels["handler"] == "/broken":
        return False
    return "le" not in sample.labels or sample.labels["le"] in bounds

"""docs/support.md: each server of the table has the tests that the table names."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVERS = (ROOT / "docs/support.md").read_text().partition("\n## Servers\n")[2].partition("\n##")[0]
CELLS = re.findall(r"\[`([^`]+)`\]\(\.\./(tests/[^)]+)\)", SERVERS)


@cache
def collected() -> frozenset[str]:
    """Ids of the tests in the files that the table names."""
    files = sorted({file for _, file in CELLS})
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return frozenset(line for line in done.stdout.splitlines() if "::" in line)


def names_of(nodeid: str) -> Iterator[str]:
    """What the table may call a test: its function, or one of its parameters."""
    function, _, parameters = nodeid.rpartition("::")[2].removesuffix("]").partition("[")
    yield from (function, parameters, *re.split(r"-(?=SIG)|(?<=SIGTERM)-|(?<=SIGINT)-", parameters))


@pytest.mark.parametrize(("name", "file"), CELLS)
def test_the_test_of_each_server_exists(name: str, file: str) -> None:
    assert any(nodeid.startswith(f"{file}::") and name in names_of(nodeid) for nodeid in collected())


def test_each_server_has_a_test() -> None:
    rows = [line for line in SERVERS.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 10
    assert [row for row in rows if not re.search(r"\]\(\.\./tests/", row)] == []

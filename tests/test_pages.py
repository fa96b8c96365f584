"""The Markdown pages: their Python code runs, and their links point to existing files and headings.

tests/test_findings_pages.py runs the code of docs/findings, tests/test_detectors_page.py that of docs/detectors.md,
tests/migration that of docs/migrate.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"), *ROOT.glob(".github/**/*.md")]
)
RUN_ELSEWHERE: Final = {ROOT / "docs" / "findings", ROOT / "docs" / "migrate"}

# Appended to a program: an app answers with its metrics, and its telemetry is undone.
SERVE: Final = """
if "app" in globals():
    from fastapi.testclient import TestClient

    with TestClient(app) as client:
        assert client.get("/metrics").status_code == 200
    telemetry.shutdown()
"""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks() -> Iterator[tuple[str, str]]:
    """Each Python block, as page and line of its first line, and its code."""
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            yield f"{named(page)}:{text.count(chr(10), 0, match.start(1)) + 1}", match[1]


BLOCKS: Final = dict(blocks())

# A block that begins with its imports is a complete program; the others continue one.
PROGRAMS: Final = [
    where
    for where, code in BLOCKS.items()
    if code.startswith(("import ", "from ")) and RUN_ELSEWHERE.isdisjoint((ROOT / where).parents)
]


@pytest.mark.parametrize("where", BLOCKS)
def test_every_python_block_compiles(where: str) -> None:
    ast.parse(BLOCKS[where], where)


def test_the_readme_has_a_program() -> None:
    assert [where.partition(":")[0] for where in PROGRAMS].count("README.md") == 1


@pytest.mark.parametrize("where", PROGRAMS)
def test_every_program_runs(where: str, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", BLOCKS[where] + SERVE],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_points_to_an_existing_file_and_heading(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, like GitHub generates them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

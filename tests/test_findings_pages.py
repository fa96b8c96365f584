"""docs/findings has a page for each kind, with the right thresholds and with code before and after that is run."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from otel_fastperf.findings import Kind
from otel_fastperf.settings import OWN, Settings, spelled

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = ROOT / "docs" / "findings"
SECTIONS: Final = ["How it is detected", "When it is wrong", "Remedy"]

every_kind = pytest.mark.parametrize("kind", Kind)


def page(kind: Kind) -> str:
    return (FOLDER / f"{kind}.md").read_text()


def test_each_kind_has_a_page_and_there_are_no_others() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == {*Kind, "README"}


def test_the_index_links_to_each_page() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\) \| .+ \| .+ \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted((kind, kind) for kind in Kind)


@every_kind
def test_a_page_has_its_sections_in_order(kind: Kind) -> None:
    title, *sections = re.split(r"^## ", page(kind), flags=re.MULTILINE)
    assert title.startswith(f"# `{kind}`\n\n")
    assert [section.partition("\n")[0] for section in sections] == SECTIONS
    assert "*False alarm*" in sections[1]
    assert "*Missed*" in sections[1]


@every_kind
def test_the_thresholds_on_a_page_match_the_settings(kind: Kind) -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `(\w+)` \| (\S+) \|$", page(kind), re.MULTILINE)
    assert rows
    for path, variable, default in rows:
        assert OWN[variable] == path
        group, _, name = path.partition(".")
        fields: Any = Settings.model_fields[group].annotation
        assert default == spelled(fields.model_fields[name].default)


@every_kind
def test_the_links_on_a_page_are_not_broken(kind: Kind) -> None:
    for text in (page(kind), (FOLDER / "README.md").read_text()):
        for target in re.findall(r"\]\(([^)]+)\)", text):
            assert (FOLDER / target).exists()


@every_kind
def test_the_code_before_yields_only_this_finding_and_the_code_after_yields_none(kind: Kind) -> None:
    command = [sys.executable, "-m", "docs.findings", kind, "--json"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[tuple[str, int | None]]] = json.loads(done.stdout)
    assert {name for name, _ in found["before"]} == {kind}
    assert found["after"] == []
    marked = marked_line(page(kind))
    if marked is not None:
        assert {line for _, line in found["before"]} == {marked}


def marked_line(text: str) -> int | None:
    """The line of the first block with the comment `<- here`; None if no line has it."""
    block = text.split("```python\n")[1].split("```", maxsplit=1)[0]
    return next((number for number, line in enumerate(block.splitlines(), 1) if "# <- here" in line), None)

"""docs/findings: a page for each kind, with thresholds that are these, and code before and after that shows it."""

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


def test_there_is_a_page_for_each_kind_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == {*Kind, "README"}


def test_the_index_leads_to_each() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\) \| .+ \| .+ \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted((kind, kind) for kind in Kind)


@every_kind
def test_a_page_says_what_it_means_how_it_is_detected_when_it_is_wrong_and_the_remedy(kind: Kind) -> None:
    title, *sections = re.split(r"^## ", page(kind), flags=re.MULTILINE)
    assert title.startswith(f"# `{kind}`\n\n")
    assert [section.partition("\n")[0] for section in sections] == SECTIONS
    assert "*False alarm*" in sections[1]
    assert "*Missed*" in sections[1]


@every_kind
def test_the_thresholds_of_a_page_are_those_of_the_settings(kind: Kind) -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `(\w+)` \| (\S+) \|$", page(kind), re.MULTILINE)
    assert rows
    for path, variable, default in rows:
        assert OWN[variable] == path
        group, _, name = path.partition(".")
        fields: Any = Settings.model_fields[group].annotation
        assert default == spelled(fields.model_fields[name].default)


@every_kind
def test_the_links_of_a_page_lead_somewhere(kind: Kind) -> None:
    for text in (page(kind), (FOLDER / "README.md").read_text()):
        for target in re.findall(r"\]\(([^)]+)\)", text):
            assert (FOLDER / target).exists()


@every_kind
def test_the_code_before_yields_the_finding_and_no_other_and_the_code_after_none(kind: Kind) -> None:
    command = [sys.executable, "-m", "docs.findings", kind, "--json"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[tuple[str, int | None]]] = json.loads(done.stdout)
    assert {name for name, _ in found["before"]} == {kind}
    assert found["after"] == []
    marked = line_that_is_marked(page(kind))
    if marked is not None:
        assert {line for _, line in found["before"]} == {marked}


def line_that_is_marked(text: str) -> int | None:
    """The line of the first block with the comment `<- here`; None where the page marks none."""
    block = text.split("```python\n")[1].split("```", maxsplit=1)[0]
    return next((number for number, line in enumerate(block.splitlines(), 1) if "# <- here" in line), None)

"""The metadata that a package index shows."""

import re
import tomllib
from email import message_from_bytes
from email.message import Message
from functools import cache
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT: Final = Path(__file__).parent.parent.parent
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY: Final = PROJECT["urls"]["Repository"]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Message:
    """The metadata of a wheel built from this checkout."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_every_project_url_is_in_the_repository() -> None:
    assert [url for url in PROJECT["urls"].values() if not url.startswith(REPOSITORY)] == []
    assert REPOSITORY.startswith("https://")


def test_every_link_and_image_of_the_readme_is_absolute(metadata: Message) -> None:
    text = str(metadata.get_payload())
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_every_relative_link_of_the_readme_points_to_a_file() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("path", ["pyproject.toml", "SECURITY.md", ".github/ISSUE_TEMPLATE/config.yml"])
def test_every_mention_of_the_repository_has_its_address(path: str) -> None:
    mentions = re.findall(r"https://github\.com/[\w.-]*fastperf[\w.-]*/[\w.-]+", (ROOT / path).read_text())
    assert mentions
    assert set(mentions) == {REPOSITORY}


@cache
def support_table() -> str:
    return (ROOT / "docs/support.md").read_text()


@pytest.mark.parametrize("package", ["fastapi", "sqlalchemy", "opentelemetry-sdk", "prometheus-client"])
def test_the_support_page_has_the_lower_bounds(package: str) -> None:
    (bound,) = (line.partition(">=")[2] for line in PROJECT["dependencies"] if line.startswith(f"{package}>="))
    assert f"| `{package}` | {bound} |" in support_table()


def test_the_support_page_has_the_pythons() -> None:
    versions = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert f"CPython {', '.join(versions)}" in support_table()

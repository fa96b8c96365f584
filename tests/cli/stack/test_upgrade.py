"""`otel-fastperf stack upgrade`: it shows what another version of the stack changes, and writes only if told to."""

import io
import json
from pathlib import Path
from typing import Final

import pytest

from otel_fastperf.cli.stack.files import MANIFEST
from tests.cli.stack.test_command import RULES, Command, stack

__all__ = ["stack"]  # the fixture

COMPOSE: Final = "docker-compose.yml"
OLD: Final = """\
name: otel-fastperf
services:
  jaeger:
    image: docker.io/jaegertracing/jaeger:2.19.0
  grafana:
    image: docker.io/grafana/grafana:13.1.0
"""


class Terminal(io.StringIO):
    """A terminal at which somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def old(stack: Command) -> Command:
    """A stack of version 0.0.1, which differs from what is shipped in three files."""
    stack.ship(COMPOSE, OLD)
    stack.ship("deploy/old.yml", "a: 1\n")
    stack.init()
    manifest = json.loads(stack.read(MANIFEST))
    stack.put(MANIFEST, json.dumps({**manifest, "version": "0.0.1"}))
    stack.ship(COMPOSE, OLD.replace("2.19.0", "2.20.0"))
    stack.ship(RULES, "groups: []\n# new\n")
    stack.ship("deploy/new.yml", "a: 1\n")
    (stack.origin / "deploy/old.yml").unlink()
    return stack


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_changes_is_shown_and_nothing_is_written(old: Command) -> None:
    before = contents(old.folder)
    ran = old("upgrade", str(old.folder))
    assert (ran.code, ran.err) == (1, "")
    assert contents(old.folder) == before
    for line in (
        f"The stack in {old.folder}: otel-fastperf 0.0.1 -> ",
        "  image     docker.io/jaegertracing/jaeger  2.19.0 -> 2.20.0\n",
        "  update    docker-compose.yml  (+1 -1)\n",
        f"  update    {RULES}  (+1 -0)\n",
        "  create    deploy/new.yml  (+1 -0)\n",
        "  remove    deploy/old.yml  (+0 -1)\n",
        "\n-    image: docker.io/jaegertracing/jaeger:2.19.0\n+    image: docker.io/jaegertracing/jaeger:2.20.0\n",
        "\n+# new\n",
        f"Nothing was written. To do it: otel-fastperf stack upgrade {old.folder} --yes\n",
    ):
        assert line in ran.out
    assert "grafana/grafana" not in ran.out.partition("\n---")[0]


def test_with_yes_it_is_written_after_it_is_shown(old: Command) -> None:
    ran = old("upgrade", str(old.folder), "--yes")
    assert (ran.code, "2.19.0 -> 2.20.0" in ran.out, "--force-recreate" in ran.out) == (0, True, True)
    assert "jaeger:2.20.0" in old.read(COMPOSE)
    assert ("deploy/new.yml" in old.names(), "deploy/old.yml" in old.names()) == (True, False)
    ran = old("upgrade", str(old.folder))
    assert (ran.code, "is up to date" in ran.out) == (0, True)


@pytest.mark.parametrize(
    ("typed", "written"), [("y\n", True), ("yes\n", True), ("\n", False), ("no\n", False), ("", False)]
)
def test_at_a_terminal_it_asks(old: Command, monkeypatch: pytest.MonkeyPatch, typed: str, written: bool) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    ran = old("upgrade", str(old.folder))
    assert (ran.code == 0, "jaeger:2.20.0" in old.read(COMPOSE), "Write this? [y/N]" in ran.out) == (
        written,
        written,
        True,
    )


def test_changes_of_the_user_stay_and_the_new_version_is_beside_them(old: Command) -> None:
    old.put(COMPOSE, old.read(COMPOSE) + "# mine\n")
    ran = old("upgrade", str(old.folder), "--yes")
    assert ran.code == 1
    assert f"  offer     {COMPOSE}  (+1 -2; changed or removed by you: yours stays" in ran.out
    assert old.read(COMPOSE).endswith("# mine\n")
    assert "jaeger:2.20.0" in old.read(f"{COMPOSE}.new")


def test_answers_of_init_are_kept(old: Command) -> None:
    old.init("--service", "shop")
    before = old.read("deploy/prometheus/targets/app.yml")
    old("upgrade", str(old.folder), "--yes")
    assert old.read("deploy/prometheus/targets/app.yml") == before


def test_a_newer_server_with_data_of_its_own_is_a_note(old: Command) -> None:
    assert "Back up" not in old("upgrade", str(old.folder)).out
    old.ship(COMPOSE, OLD.replace("13.1.0", "13.2.0"))
    assert "Back up the volumes of grafana first" in old("upgrade", str(old.folder)).out


def test_long_differences_are_cut_unless_all_is_asked_for(old: Command) -> None:
    old.ship(RULES, "groups: []\n" + "".join(f"# {number}\n" for number in range(100)))
    assert "# 99\n" not in old("upgrade", str(old.folder)).out
    assert "more lines; --all shows them" in old("upgrade", str(old.folder)).out
    assert "# 99\n" in old("upgrade", str(old.folder), "--all").out


def test_a_version_that_changes_no_file_is_recorded(old: Command) -> None:
    old("upgrade", str(old.folder), "--yes")
    manifest = json.loads(old.read(MANIFEST))
    old.put(MANIFEST, json.dumps({**manifest, "version": "0.0.1"}))
    assert old("upgrade", str(old.folder)).code == 0
    assert json.loads(old.read(MANIFEST))["version"] == manifest["version"]


def test_a_folder_without_a_stack_cannot_be_upgraded(stack: Command) -> None:
    ran = stack("upgrade", str(stack.folder), "--yes")
    assert (ran.code, ran.out, stack.folder.exists()) == (2, "", False)
    assert f"Remedy: otel-fastperf stack init {stack.folder}" in ran.err

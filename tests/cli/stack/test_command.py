"""`otel-fastperf stack init` and `stack check`, on a small stack: files, findings, output and exit codes.

tests/deploy/test_stack_cli.py tests the shipped stack with the programs that read it.
"""

import http.server
import json
import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import yaml

from otel_fastperf.cli.main import main
from otel_fastperf.cli.stack.files import JAEGER_UI, MANIFEST, SECRET, SLO_TARGETS, TARGETS, source
from tests.serving import free_port

DEMO: Final = "deploy/prometheus/targets/demo.yml"
ALERTMANAGER: Final = "deploy/alertmanager/alertmanager.yml"
RECEIVERS: Final = source() / "deploy/alertmanager/receivers"
RULES: Final = "deploy/prometheus/rules/alerts.yml"
FILES: Final = {
    "docker-compose.yml": """\
# make stack-up
name: otel-fastperf
services:
  grafana:
    ports: ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"]
  jaeger:
    ports: ["127.0.0.1:${JAEGER_PORT:-16686}:16686"]

secrets:
  grafana_admin_password:
    file: ./secrets/grafana_admin_password
""",
    "compose.persistent.yml": "services: {grafana: !override {}}\n",
    ".env.example": "GRAFANA_PORT=3000\nJAEGER_PORT=16686\n#GRAFANA_URL=http://localhost:3000\n",
    RULES: "groups: []\n",
    TARGETS: "# a comment\n- targets:\n    - host.docker.internal:8000\n  labels:\n    job: my-service\n",
    DEMO: "- targets: [demo:8000]\n",
    "deploy/runbooks/A.md": "Do this.\n",
    "deploy/alertmanager/receivers/slack.yml": "channel: CHANGE_ME\nto: team@example.com\n",
    SLO_TARGETS: "groups: []\n",
    JAEGER_UI: '{"menu": "http://localhost:3000/d/fastperf-overview"}\n',
}


@dataclass
class Ran:
    code: int
    out: str
    err: str

    def checks(self) -> dict[str, list[tuple[str, str]]]:
        """Checks from `--format json`: name -> level and text of each."""
        found: dict[str, list[tuple[str, str]]] = {}
        for check in json.loads(self.out):
            found.setdefault(check["name"], []).append((check["level"], f"{check['what']} Remedy: {check['remedy']}"))
        return found


@dataclass
class Command:
    """The command, with shipped files that a test can change like a later version would."""

    capsys: pytest.CaptureFixture[str]
    origin: Path
    folder: Path

    def __call__(self, *arguments: str) -> Ran:
        self.capsys.readouterr()
        try:
            code = main(["stack", *arguments])
        except SystemExit as error:  # argparse
            code = int(str(error.code))
        return Ran(code, *self.capsys.readouterr())

    def init(self, *options: str) -> Ran:
        return self("init", str(self.folder), *options)

    def check(self) -> dict[str, list[tuple[str, str]]]:
        return self("check", str(self.folder), "--format", "json").checks()

    def ship(self, name: str, text: str) -> None:
        (self.origin / name).parent.mkdir(parents=True, exist_ok=True)
        (self.origin / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def put(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def names(self) -> set[str]:
        found = self.folder.rglob("*")
        return {path.relative_to(self.folder).as_posix() for path in found if not path.is_dir()}


@pytest.fixture
def stack(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    command = Command(capsys, tmp_path / "origin", tmp_path / "stack")
    for name, text in FILES.items():
        command.ship(name, text)
    monkeypatch.setattr("otel_fastperf.cli.stack.command.source", lambda: command.origin)
    monkeypatch.setenv("PATH", str(tmp_path))  # no program of this machine is used
    for name in ("OTEL_SERVICE_NAME", "GRAFANA_PORT", "JAEGER_PORT", "GRAFANA_URL"):
        monkeypatch.delenv(name, raising=False)
    return command


# init


def test_init_writes_the_whole_stack_and_prints_the_next_commands(stack: Command) -> None:
    ran = stack.init("--target", "shop:8000", "shop-2:8000", "--service", "shop")
    assert (ran.code, ran.err) == (0, "")
    assert stack.names() == {*FILES, SECRET, MANIFEST, ".env", "secrets/.gitignore"} - {DEMO}
    assert yaml.safe_load(stack.read(TARGETS)) == [{"targets": ["shop:8000", "shop-2:8000"], "labels": {"job": "shop"}}]
    assert stack.read(SECRET).strip() not in ran.out
    commands = ran.out[ran.out.index("Next:") :].splitlines()
    environment = "OTEL_SERVICE_NAME=shop OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318"
    assert commands[1:4] == [
        f"  otel-fastperf stack check {stack.folder}",
        f"  docker compose --project-directory {stack.folder} up --detach --wait",
        f"  {environment} uvicorn --host 0.0.0.0 --port 8000 MODULE:APP",
    ]
    assert "http://localhost:3000" in commands[-1]


def test_without_options_the_target_is_an_app_on_this_machine(stack: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named")
    assert stack.init().code == 0
    assert yaml.safe_load(stack.read(TARGETS)) == [
        {"targets": ["host.docker.internal:8000"], "labels": {"job": "named"}}
    ]


def test_slo_and_addresses_are_filled_in(stack: Command) -> None:
    options = ["--availability", "99.5", "--latency", "95", "--latency-threshold", "0.25"]
    ran = stack.init(*options, "--grafana-url", "https://grafana.example.com/")
    assert ran.code == 0
    (group,) = yaml.safe_load(stack.read(SLO_TARGETS))["groups"]
    assert [rule["expr"].split()[-1] for rule in group["rules"]][:3] == ["0.995", "0.95", "0.25"]
    assert json.loads(stack.read(JAEGER_UI)) == {"menu": "https://grafana.example.com/d/fastperf-overview"}
    assert "GRAFANA_URL=https://grafana.example.com\n" in stack.read(".env")
    assert "Then open https://grafana.example.com and log in as admin" in ran.out


def test_a_second_init_keeps_the_answers_and_changes_nothing(stack: Command) -> None:
    stack.init("--target", "shop:8000", "--service", "shop", "--availability", "99")
    before = {name: stack.read(name) for name in stack.names()}
    ran = stack.init()
    assert ran.code == 0
    assert {name: stack.read(name) for name in stack.names()} == before
    assert "written" not in ran.out
    assert "The stack for shop (shop:8000)" in ran.out


def name_of(folder: Path) -> str:
    return str(yaml.safe_load((folder / "docker-compose.yml").read_text())["name"])


def test_a_stack_beside_another_has_containers_and_volumes_of_its_own(stack: Command, tmp_path: Path) -> None:
    """Compose finds them by the project's name, not by the folder."""
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "other" / "a"]
    for folder in folders:
        assert stack("init", str(folder)).code == 0
    assert len({name_of(folder) for folder in folders}) == len(folders)


def test_a_stack_keeps_its_name_when_it_is_updated_or_moved(stack: Command, tmp_path: Path) -> None:
    stack.init()
    name = name_of(stack.folder)
    stack.init("--service", "store")
    assert name_of(stack.folder) == name
    stack.folder.rename(tmp_path / "moved")
    stack("init", str(tmp_path / "moved"))
    assert name_of(tmp_path / "moved") == name


def test_the_name_of_the_stack_can_be_chosen(stack: Command) -> None:
    stack.init("--project", "shop-telemetry")
    assert name_of(stack.folder) == "shop-telemetry"
    stack.init("--service", "store")
    assert name_of(stack.folder) == "shop-telemetry"


def test_a_new_answer_updates_the_files_that_contain_it(stack: Command) -> None:
    stack.init("--service", "shop")
    ran = stack.init("--service", "store")
    assert (ran.code, f"updated   {TARGETS}" in ran.out) == (0, True)
    assert 'job: "store"' in stack.read(TARGETS)


def test_an_upgrade_updates_only_files_that_the_user_has_not_changed(stack: Command) -> None:
    stack.init()
    stack.put(RULES, "groups: [] # mine\n")
    stack.put("docker-compose.yml", "services: {} # mine\n")
    stack.ship(RULES, "groups: [] # newer\n")
    stack.ship("deploy/runbooks/A.md", "Do that.\n")
    stack.ship("deploy/runbooks/B.md", "New.\n")
    (stack.origin / "deploy/alertmanager/receivers/slack.yml").unlink()
    ran = stack.init()
    assert ran.code == 1
    assert stack.read(RULES) == "groups: [] # mine\n"
    assert stack.read(f"{RULES}.new") == "groups: [] # newer\n"
    assert stack.read("docker-compose.yml") == "services: {} # mine\n"
    assert "docker-compose.yml.new" not in stack.names()  # our version of that file has not changed
    assert (stack.read("deploy/runbooks/A.md"), stack.read("deploy/runbooks/B.md")) == ("Do that.\n", "New.\n")
    assert "deploy/alertmanager/receivers/slack.yml" not in stack.names()
    mine = stack.folder / RULES
    for line in (
        f"kept      {RULES}  (changed or removed by you; see: diff -u {mine} {mine}.new)",
        "kept      docker-compose.yml  (changed or removed by you; no new version)",
        "updated   deploy/runbooks/A.md\n",
        "removed   deploy/alertmanager/receivers/slack.yml",
        "written   1 file: deploy\n",
    ):
        assert line in ran.out


def test_a_new_version_of_a_changed_file_is_offered_once(stack: Command) -> None:
    stack.init()
    stack.put(RULES, "groups: [] # mine\n")
    stack.ship(RULES, "groups: [] # newer\n")
    assert stack.init().code == 1
    (stack.folder / f"{RULES}.new").unlink()
    assert stack.init().code == 0
    assert f"{RULES}.new" not in stack.names()


def test_a_file_replaced_by_the_offered_version_is_updated_again(stack: Command) -> None:
    stack.init()
    stack.put(RULES, "groups: [] # mine\n")
    stack.ship(RULES, "groups: [] # newer\n")
    stack.init()
    (stack.folder / f"{RULES}.new").replace(stack.folder / RULES)
    stack.ship(RULES, "groups: [] # newest\n")
    assert stack.init().code == 0
    assert stack.read(RULES) == "groups: [] # newest\n"


def test_force_overwrites_and_keeps_the_user_s_version_beside(stack: Command) -> None:
    stack.init()
    password = stack.read(SECRET)
    stack.put(RULES, "groups: [] # mine\n")
    (stack.folder / "deploy/runbooks/A.md").unlink()
    ran = stack.init("--force")
    assert ran.code == 0
    assert (stack.read(RULES), stack.read(f"{RULES}.old")) == (FILES[RULES], "groups: [] # mine\n")
    assert "deploy/runbooks/A.md" in stack.names()
    assert f"replaced  {RULES}  (your version is in {RULES}.old)" in ran.out
    assert stack.read(SECRET) == password


def test_files_of_another_project_are_not_overwritten(stack: Command) -> None:
    stack.folder.mkdir()
    stack.put("docker-compose.yml", "services: {theirs: {}}\n")
    assert stack.init().code == 1
    assert stack.read("docker-compose.yml") == "services: {theirs: {}}\n"
    assert "grafana:" in stack.read("docker-compose.yml.new")


def test_wrong_values_are_all_listed_and_nothing_is_written(stack: Command) -> None:
    ran = stack.init("--target", "http://shop:8000/metrics", "--availability", "100", "--grafana-url", "grafana")
    assert (ran.code, ran.out, stack.folder.exists()) == (2, "", False)
    assert [line.removeprefix("otel-fastperf: ").split()[0] for line in ran.err.splitlines()] == [
        "--target",
        "--availability",
        "--grafana-url",
    ]


def test_a_file_in_place_of_the_folder_is_an_error(stack: Command) -> None:
    stack.folder.touch()
    ran = stack.init()
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert f"DIR={stack.folder}: must be a folder, but is a file" in ran.err


def test_commands_in_messages_work_for_a_folder_with_a_space_in_its_name(stack: Command, tmp_path: Path) -> None:
    folder = tmp_path / "my stack"
    ran = stack("check", str(folder))
    assert f"Remedy: otel-fastperf stack init '{folder}'" in ran.err
    folder.mkdir()
    (folder / "docker-compose.yml").write_text("services: {} # mine\n")
    ran = stack("init", str(folder))
    file = folder / "docker-compose.yml"
    assert f"diff -u '{file}' '{file}.new'" in ran.out
    assert f"diff -u '{file}' '{file}.new'" in stack("check", str(folder)).out
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "version": "0.0.1"}))
    stack.ship(RULES, "groups: [] # newer\n")
    assert f"otel-fastperf stack upgrade '{folder}'" in stack("check", str(folder)).out
    assert f"otel-fastperf stack upgrade '{folder}' --yes" in stack("upgrade", str(folder)).out


def test_the_folder_of_the_shipped_files_is_refused(stack: Command) -> None:
    ran = stack("init", str(stack.origin))
    assert (ran.code, "must not be the folder" in ran.err) == (2, True)


def test_with_a_damaged_manifest_nothing_is_written(stack: Command) -> None:
    stack.init()
    stack.put(MANIFEST, "{")
    stack.ship(RULES, "groups: [] # newer\n")
    ran = stack.init()
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "Remedy: move it away" in ran.err
    assert stack.read(RULES) == FILES[RULES]


def test_in_a_checkout_the_files_are_found_at_its_root() -> None:
    assert (source() / "docker-compose.yml").is_file()


@pytest.mark.parametrize("arguments", [(), ("other",), ("init",), ("check",), ("check", ".", "--format", "xml")])
def test_wrong_arguments_print_the_usage(stack: Command, arguments: tuple[str, ...]) -> None:
    ran = stack(*arguments)
    assert (ran.code, "usage: otel-fastperf stack" in ran.err) == (2, True)


@pytest.mark.parametrize("command", ["init", "check"])
def test_help_lists_the_exit_codes(stack: Command, command: str) -> None:
    ran = stack(command, "--help")
    assert (ran.code, "stack init   0  written" in ran.out) == (0, True)


# for Kubernetes

KUBERNETES: Final = {
    "deploy/kubernetes/README.md": "Read this.\n",
    "deploy/kubernetes/base/kustomization.yaml": "resources: [../../jaeger]\n",
    "deploy/jaeger/kustomization.yml": "configMapGenerator: []\n",
}


@pytest.fixture
def manifests(stack: Command) -> Command:
    """A stack for Kubernetes."""
    for name, text in KUBERNETES.items():
        stack.ship(name, text)
    assert stack.init("--kubernetes").code == 0
    return stack


def test_for_kubernetes_init_writes_manifests_and_neither_compose_files_nor_a_password(manifests: Command) -> None:
    rules = {f"deploy/kubernetes/monitoring/rules/{name}.yaml" for name in ("alerts", "slo-targets")}
    assert manifests.names() == {*KUBERNETES, *rules, JAEGER_UI, MANIFEST}
    ran = manifests.init("--grafana-url", "https://grafana.example.com")
    assert ran.out.startswith(f"The stack for Kubernetes is in {manifests.folder}:\n")
    assert f"updated   {JAEGER_UI}" in ran.out
    assert f"  kubectl apply --kustomize {manifests.folder}/deploy/kubernetes/base\n" in ran.out


def test_a_manifest_that_the_user_changed_is_kept(manifests: Command) -> None:
    name = "deploy/kubernetes/base/kustomization.yaml"
    manifests.put(name, "resources: [mine.yaml]\n")
    manifests.ship(name, "resources: [new.yaml]\n")
    assert manifests.init().code == 1
    assert (manifests.read(name), manifests.read(f"{name}.new")) == (
        "resources: [mine.yaml]\n",
        "resources: [new.yaml]\n",
    )


def test_a_stack_for_compose_does_not_become_one_for_kubernetes(stack: Command) -> None:
    stack.init()
    ran = stack.init("--kubernetes")
    assert ran.code == 2
    assert "must not contain a stack for docker compose. Remedy: choose another folder." in ran.err


def test_check_of_manifests_looks_at_files_and_not_at_this_machine(manifests: Command) -> None:
    checks = manifests.check()
    assert set(checks) == {"files", "syntax", "kubectl", "otelcol", "jaeger"}
    assert {level for found in checks.values() for level, _ in found} == {"ok", "info"}
    manifests.put("deploy/kubernetes/base/kustomization.yaml", "resources: [\n")
    assert "bad" in dict(manifests.check()["syntax"])


# check


@contextmanager
def app(page: bytes, status: int = 200) -> Iterator[int]:
    """Serves /metrics; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/metrics" else 404)
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def made(stack: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A stack whose ports are free."""
    stack.init()
    for name in ("GRAFANA_PORT", "JAEGER_PORT"):
        monkeypatch.setenv(name, str(free_port()))
    monkeypatch.setenv("GRAFANA_URL", "http://localhost:3000")
    return stack


def test_a_stack_written_by_init_passes(made: Command) -> None:
    with app(b"# HELP fastperf_findings_total Findings.\n") as port:
        made.init("--target", f"localhost:{port}")
        ran = made("check", str(made.folder))
    assert ran.code == 0
    levels = [line[:4].strip() for line in ran.out.splitlines() if line[:1] != " "]
    assert set(levels) == {"ok", "info"}  # info is for programs that are not installed
    assert f"ok    targets: host.docker.internal:{port}/metrics responds.\n" in ran.out


@pytest.mark.parametrize("path", [RULES, "docker-compose.yml", JAEGER_UI, TARGETS])
def test_a_missing_file_is_bad(made: Command, path: str) -> None:
    (made.folder / path).unlink()
    assert ("bad", f"{path} is missing. Remedy: otel-fastperf stack init {made.folder} --force") in made.check()[
        "files"
    ]
    assert made("check", str(made.folder)).code == 1


def test_a_missing_runbook_is_info(made: Command) -> None:
    (made.folder / "deploy/runbooks/A.md").unlink()
    assert [level for level, _ in made.check()["files"]] == ["info"]


def test_changed_files_and_offered_versions_are_listed(made: Command) -> None:
    made.put(RULES, "groups: [] # mine\n")
    made.ship(RULES, "groups: [] # newer\n")
    made.init()
    levels = dict(made.check()["files"])
    assert RULES in levels["info"]
    assert f"diff -u {made.folder / RULES} {made.folder / RULES}.new" in levels["warn"]


def test_a_stack_of_another_version_is_info(made: Command) -> None:
    manifest = json.loads(made.read(MANIFEST))
    made.put(MANIFEST, json.dumps({**manifest, "version": "0.0.1"}))
    assert "written by otel-fastperf 0.0.1" in dict(made.check()["files"])["info"]


@pytest.mark.parametrize(
    ("path", "text"),
    [(RULES, "groups: [\n"), (RULES, "a: b: c\n"), (JAEGER_UI, "{,}"), ("compose.mine.yml", "\t- x\n"),
     ("deploy/prometheus/rules/mine.yml", "groups: '")],
)  # fmt: skip
def test_a_file_that_cannot_be_parsed_is_bad(made: Command, path: str, text: str) -> None:
    made.put(path, text)
    bad = [what for level, what in made.check()["syntax"] if level == "bad"]
    assert len(bad) == 1
    assert bad[0].startswith(f"{path} cannot be parsed: ")


def test_without_pyyaml_init_works_and_check_names_the_extra(stack: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert stack.init().code == 0
    ran = stack("check", str(stack.folder))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.endswith("Remedy: pip install 'otel-fastperf[stack]'\n")


@pytest.mark.parametrize(("value", "word"), [("CHANGE_ME", "CHANGE_ME"), ("team@example.com", "example.com")])
def test_a_placeholder_is_bad_outside_of_comments_and_examples(made: Command, value: str, word: str) -> None:
    assert "placeholders" not in made.check()  # no program reads the example
    made.put(ALERTMANAGER, f"# {value}\nreceivers:\n  - to: {value}\n")
    assert [what for _, what in made.check()["placeholders"]] == [
        f"{ALERTMANAGER}:3 still contains {word}. Remedy: replace it with your value"
    ]


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_missing_secret_is_bad(made: Command, content: str | None) -> None:
    (made.folder / SECRET).unlink()
    if content is not None:
        made.put(SECRET, content)
    [(level, what)] = made.check()["secrets"]
    assert (level, "is missing or empty" in what) == ("bad", True)
    assert made.init().code == 0
    assert [level for level, _ in made.check()["secrets"]] == ["ok"]


def test_a_short_password_is_bad(made: Command) -> None:
    (made.folder / SECRET).unlink()
    made.put(SECRET, "admin\n")
    assert [level for level, _ in made.check()["secrets"]] == ["bad"]


def test_a_secret_that_grafana_s_user_cannot_read_is_bad(made: Command) -> None:
    (made.folder / SECRET).chmod(0o600)
    [(level, what)] = made.check()["secrets"]
    assert (level, "Grafana's user (472)" in what, "chmod" in what) == ("bad", True, True)


def test_a_secret_that_everybody_can_read_is_a_warning(made: Command) -> None:
    (made.folder / "secrets").chmod(0o755)
    [(level, what)] = made.check()["secrets"]
    assert (level, "chmod 700 secrets" in what) == ("warn", True)


def test_other_secrets_of_the_compose_file_must_exist(made: Command) -> None:
    made.put("docker-compose.yml", made.read("docker-compose.yml") + "  slack:\n    file: ./secrets/slack_url\n")
    assert ("bad", "secrets/slack_url is missing or empty. Remedy: write it into secrets/slack_url") in made.check()[
        "secrets"
    ]


@pytest.mark.parametrize("mode", [None, 0o600, 0o444])
def test_secrets_of_receivers_must_exist_and_be_readable_in_the_container(made: Command, mode: int | None) -> None:
    made.put(ALERTMANAGER, "receivers:\n  - name: x\n    slack_configs:\n      - api_url_file: secrets/slack_url\n")
    folder = made.folder / "deploy/alertmanager/secrets"
    folder.mkdir()
    folder.chmod(0o755)
    if mode is not None:
        (folder / "slack_url").write_text("https://hooks.slack.com/x\n")
        (folder / "slack_url").chmod(mode)
    found = [what for level, what in made.check()["secrets"] if level == "bad"]
    said = {None: "is missing or empty", 0o600: "cannot be read by Alertmanager's user (65534)"}.get(mode)
    assert len(found) == (said is not None)
    assert all(str(said) in what for what in found)


@pytest.mark.parametrize("example", sorted(RECEIVERS.glob("*.yml")), ids=lambda example: example.stem)
def test_the_secret_of_each_shipped_receiver_is_required_once_it_is_turned_on(made: Command, example: Path) -> None:
    made.put(ALERTMANAGER, example.read_text())
    (secret,) = re.findall(r"_file: /etc/alertmanager/(secrets/\w+)$", example.read_text(), re.MULTILINE)
    missing = f"deploy/alertmanager/{secret} is missing or empty."
    assert [what for _, what in made.check()["secrets"] if what.startswith(missing)]


@pytest.mark.parametrize("text", ["", "[]\n", "- labels: {job: shop}\n", "# - shop:8000\n"])
def test_a_target_file_without_targets_is_bad(made: Command, text: str) -> None:
    made.put(TARGETS, text)
    [(level, what)] = made.check()["targets"]
    assert (level, "no target" in what, "--target" in what) == ("bad", True, True)


@pytest.mark.parametrize(
    "text",
    ["- targets:\n    - {0}\n    - '{1}' # second\n", '- targets: [ "{0}", {1} ]\n',
     '[{{"targets": ["{0}", "{1}"]}}]\n', '[\n  {{\n    "targets": [\n      "{0}",\n      "{1}"\n    ]\n  }}\n]\n'],
)  # fmt: skip
def test_targets_are_found_in_any_yaml_or_json_style(made: Command, text: str) -> None:
    here = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    made.put(TARGETS, text.format(*here))
    assert [(level, what.split()[0]) for level, what in made.check()["targets"]] == [
        ("warn", target) for target in here
    ]


@pytest.mark.parametrize(
    ("status", "page", "says"),
    [
        (200, b"go_goroutines 1\n", "without metrics of otel-fastperf"),
        (401, b"", "responds 401"),
        (404, b"", "responds 404"),
    ],
)
def test_a_target_with_another_answer_is_a_warning(made: Command, status: int, page: bytes, says: str) -> None:
    with app(page, status) as port:
        made.init("--target", f"127.0.0.1:{port}")
        [(level, what)] = made.check()["targets"]
    assert (level, says in what) == ("warn", True)


def test_a_port_in_use_is_a_warning(made: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("JAEGER_PORT", str(port))
        [(level, what)] = made.check()["ports"]
        assert (level, f"{port} (JAEGER_PORT)" in what) == ("warn", True)
        monkeypatch.delenv("JAEGER_PORT")
        made.put(".env", f"JAEGER_PORT={port}\n")
        assert f"{port} (JAEGER_PORT)" in made.check()["ports"][0][1]


@pytest.mark.parametrize(("value", "says"), [("web", "must be a port"), ("0", "must be a port"), ("70000", "must be")])
def test_an_invalid_port_is_bad(made: Command, monkeypatch: pytest.MonkeyPatch, value: str, says: str) -> None:
    monkeypatch.setenv("JAEGER_PORT", value)
    assert ("bad", True) in [(level, f"JAEGER_PORT='{value}' {says}" in what) for level, what in made.check()["ports"]]


def test_one_port_for_two_services_is_bad(made: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAEGER_PORT", os.environ["GRAFANA_PORT"])
    assert "bad" in dict(made.check()["ports"])


@pytest.mark.parametrize(
    "port",
    ["127.0.0.1:{0}:3000", "{0}:3000", '"[::1]:{0}:3000/tcp"', "127.0.0.1:${{MINE:-{0}}}:3000", "$MINE:3000",
     "${{MINE}}:3000", '{{target: 3000, published: "{0}"}}', "{{target: 3000, published: {0}, host_ip: 127.0.0.1}}"],
)  # fmt: skip
def test_a_port_in_use_is_found_however_the_compose_file_writes_it(made: Command, port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        made.put(".env", f"MINE={number}\n")
        made.put("docker-compose.yml", f"services:\n  grafana:\n    ports:\n      - {port.format(number)}\n")
        [(level, what)] = made.check()["ports"]
    name = "MINE" if "MINE" in port else "the port of grafana"
    assert (level, f"In use: {number} ({name})." in what) == ("warn", True)


def test_ports_that_docker_chooses_or_does_not_publish_are_no_matter(made: Command) -> None:
    made.put("docker-compose.yml", "services:\n  grafana:\n    ports: [3000, '9090', {target: 3000}, '80-90:80-90']\n")
    assert "ports" not in made.check()


def docker(stack: Command, *lines: tuple[str, str, str, str], code: int = 0) -> None:
    """Install a docker with these containers: project, folder, name, published ports."""
    output = "".join("\t".join(line) + "\n" for line in lines)
    program = stack.folder.parent / "docker"
    program.write_text(f"#!/bin/sh\n[ $1 = ps ] || exit 1\nprintf '%s' '{output}'\nexit {code}\n")
    program.chmod(0o755)


def test_the_running_stack_s_own_ports_are_no_warning(made: Command) -> None:
    with socket.create_server(("127.0.0.1", int(os.environ["JAEGER_PORT"]))) as taken:
        port = taken.getsockname()[1]
        docker(made, ("x", str(made.folder), "x-jaeger-1", f"127.0.0.1:{port}->16686/tcp"))
        assert made.check()["ports"] == [("ok", "All ports of the stack are free, or its own. Remedy: ")]


def test_a_port_of_another_container_is_a_warning_that_names_it(made: Command) -> None:
    """Even if nothing listens on it: Docker may forward it without a program that does."""
    port = os.environ["JAEGER_PORT"]
    docker(made, ("a", "/a", "a-jaeger-1", f"8888/tcp, 0.0.0.0:1-2->1-2/tcp, [::]:{port}->16686/tcp"))
    [(level, what)] = made.check()["ports"]
    assert (level, what) == (
        "warn",
        f"In use: {port} (JAEGER_PORT) by the container a-jaeger-1. Remedy: set other ports in .env",
    )


def test_a_port_of_a_program_is_told_from_that_of_the_stack(made: Command) -> None:
    with socket.create_server(("127.0.0.1", int(os.environ["JAEGER_PORT"]))):
        docker(made)
        [(level, what)] = made.check()["ports"]
        assert (level, "by a program of this machine" in what, "fine" in what) == ("warn", True, False)
        docker(made, code=1)  # the engine does not run
        assert "This is fine if the stack is running" in made.check()["ports"][0][1]


def test_a_name_that_another_folder_s_stack_has_is_a_warning(made: Command, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    made.init("--project", "telemetry")
    docker(made, ("telemetry", str(tmp_path / "a"), "telemetry-grafana-1", ""), ("other", "/", "other-x-1", ""))
    [(level, what)] = made.check()["name"]
    assert (level, what.startswith(f"The stack in {tmp_path / 'a'} has the same name, telemetry: ")) == ("warn", True)
    command = what.partition("Remedy: otel-fastperf stack ")[2].split()
    assert made(*command).code == 0
    assert "name" not in made.check()


def test_a_copy_of_a_stack_has_the_name_of_the_original(made: Command, tmp_path: Path) -> None:
    docker(made, (name_of(made.folder), str(made.folder), "x-grafana-1", ""))
    assert "name" not in made.check()
    made.folder = shutil.copytree(made.folder, tmp_path / "copy")
    assert [level for level, _ in made.check()["name"]] == ["warn"]


def test_a_stack_that_was_moved_keeps_its_containers(made: Command, tmp_path: Path) -> None:
    docker(made, (name_of(made.folder), str(made.folder), "x-grafana-1", ""))
    made.folder = made.folder.rename(tmp_path / "moved")
    assert "name" not in made.check()


def test_links_to_another_grafana_are_reported_with_the_command(made: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFANA_URL")
    monkeypatch.setenv("GRAFANA_PORT", "3999")
    [(level, what)] = made.check()["links"]
    assert (level, what.endswith("--grafana-url http://localhost:3999")) == ("warn", True)
    made.init("--grafana-url", "http://localhost:3999")
    assert "links" not in made.check()


def test_a_folder_without_a_stack_cannot_be_checked(stack: Command) -> None:
    ran = stack("check", str(stack.folder))
    assert (ran.code, ran.out) == (2, "")
    assert f"Remedy: otel-fastperf stack init {stack.folder}" in ran.err

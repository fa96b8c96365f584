"""The Compose files are valid for Compose, its schema and a linter; hardened; complete; with pinned versions."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest
import yaml

from otel_fastperf.cli.stack.smoke import Addresses, smoke
from otel_fastperf.errors import SmokeError
from tests.deploy.engine import COMPOSE
from tests.deploy.servers import DEPLOY, ROOT
from tests.serving import free_port, wait_until
from tools.servers import SERVERS

FILES: Final = sorted(path.name for path in (*ROOT.glob("docker-compose.yml"), *ROOT.glob("compose.*.yml")))
OVERLAYS: Final = [name.split(".")[1] for name in FILES if name.startswith("compose.")]
#: combinations of overlays
COMBINATIONS: Final = [
    *((overlay, *demo) for overlay in OVERLAYS if overlay != "demo" for demo in ((), ("demo",))),
    (),
    ("demo",),
    ("persistent", "jaeger-only"),
    ("jaeger-only", "persistent"),
    ("persistent", "logs"),
    ("logs", "persistent"),
    ("jaeger-only", "logs"),
    ("persistent", "logs", "tail-sampling"),
]

#: services that run once as root, to give volumes to another user
ONCE: Final = {"own-volumes"}
#: images without a shell, or services without anything to query
WITHOUT_HEALTH: Final = {"otel-collector", "otel-sampler", "load"} | ONCE


def compose(
    overlays: tuple[str, ...], *arguments: str, env_file: Path = Path("/dev/null")
) -> "subprocess.CompletedProcess[str]":
    files = ["-f", "docker-compose.yml", *(part for name in overlays for part in ("-f", f"compose.{name}.yml"))]
    # without an engine, and without the .env of the developer
    return subprocess.run(
        [str(COMPOSE), "--env-file", str(env_file), *files, *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@cache
def model(overlays: tuple[str, ...]) -> dict[str, Any]:
    """The configuration as Compose resolves it."""
    done = compose(overlays, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def every_service() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each service of each combination, as `service (overlays)`."""
    for overlays in COMBINATIONS:
        for name, service in model(overlays)["services"].items():
            yield " ".join((name, *overlays)), service


SERVICES: Final = dict(every_service())

each_service = pytest.mark.parametrize("name", SERVICES)
each_combination = pytest.mark.parametrize("overlays", COMBINATIONS)


@each_combination
def test_compose_accepts_the_files_without_a_message(overlays: tuple[str, ...]) -> None:
    done = compose(overlays, "config", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", FILES)
def test_the_files_follow_the_schema_of_the_specification(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(ROOT / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@each_combination
def test_the_linter_finds_no_issue_of_medium_or_higher_severity(overlays: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text(compose(overlays, "config").stdout)
    linter = Path(sys.executable).parent / "compose-lint"
    options = ["--quiet", "--fail-on", "medium", "--config", str(ROOT / ".compose-lint.yml"), "--skip-suppressed"]
    command = [str(linter), "check", *options, str(tmp_path / "compose.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_finds_a_privileged_container(tmp_path: Path) -> None:
    """Proves that the test above can fail."""
    (tmp_path / "compose.yml").write_text("services: {web: {image: 'nginx:1.29', privileged: true}}\n")
    linter = Path(sys.executable).parent / "compose-lint"
    command = [str(linter), "check", "--config", str(ROOT / ".compose-lint.yml"), str(tmp_path / "compose.yml")]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 1


@each_service
def test_a_container_has_no_privileges_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    if name.split(maxsplit=1)[0] in ONCE:
        assert (service["user"], service["cap_add"], service["network_mode"]) == ("0:0", ["CHOWN"], "none")
    else:
        assert int(service["user"].split(":")[0]) > 0
        assert "cap_add" not in service


@each_service
def test_a_container_has_limits_for_memory_processes_cpu_and_logs(name: str) -> None:
    service = SERVICES[name]
    assert 0 < int(service["mem_limit"]) <= 1024**3
    assert 0 < service["pids_limit"] <= 256
    # dockerd rejects more CPUs than the machine has
    assert 0 < float(service["cpus"]) <= 1
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "5m", "max-file": "2"}}
    assert service["restart"] == ("no" if name.split(maxsplit=1)[0] in ONCE else "unless-stopped")


@each_service
def test_ports_are_published_on_127_0_0_1_only(name: str) -> None:
    assert all(port["host_ip"] == "127.0.0.1" for port in SERVICES[name].get("ports", []))


@each_service
def test_a_container_with_a_shell_has_a_health_check(name: str) -> None:
    assert ("healthcheck" in SERVICES[name]) == (name.split(maxsplit=1)[0] not in WITHOUT_HEALTH)


@each_service
def test_gomemlimit_is_four_fifths_of_the_memory_limit(name: str) -> None:
    limit = SERVICES[name].get("environment", {}).get("GOMEMLIMIT")
    go = name.split(maxsplit=1)[0] in {
        "otel-collector",
        "otel-sampler",
        "jaeger",
        "prometheus",
        "alertmanager",
        "grafana",
        "loki",
    }
    expected = f"{int(SERVICES[name]['mem_limit']) * 8 // 10 // 1024**2}MiB" if go else None
    assert limit == expected


@each_service
def test_no_service_depends_on_the_collector(name: str) -> None:
    """Telemetry that is down must not prevent an app from starting."""
    assert "otel-collector" not in SERVICES[name].get("depends_on", {})


def binds(service: dict[str, Any]) -> dict[str, Path]:
    """`{path inside: path here}` of mounts from this checkout."""
    return {each["target"]: Path(each["source"]) for each in service.get("volumes", []) if each["type"] == "bind"}


@each_service
def test_mounted_files_exist_and_are_read_only(name: str) -> None:
    mounted = [each for each in SERVICES[name].get("volumes", []) if each["type"] == "bind"]
    assert all(each.get("read_only") for each in mounted)
    missing = [str(path) for path in binds(SERVICES[name]).values() if not path.exists()]
    assert not missing


@each_service
def test_the_configuration_files_in_a_command_exist(name: str) -> None:
    service = SERVICES[name]
    named = [part.partition("=")[2] for part in service.get("command") or [] if part.startswith("--config")]
    here = [
        here / Path(path).relative_to(inside)
        for path in named
        for inside, here in binds(service).items()
        if Path(path).is_relative_to(inside)
    ]
    assert len(here) == len(named)
    assert all(path.is_file() for path in here), here


def test_apps_use_the_same_addresses_with_and_without_a_collector() -> None:
    jaeger = model(("jaeger-only",))["services"]["jaeger"]
    assert "otel-collector" in jaeger["networks"]["default"]["aliases"]
    ports = {port["target"]: port["published"] for port in jaeger["ports"]}
    collectors = {port["target"]: port["published"] for port in model(())["services"]["otel-collector"]["ports"]}
    assert ports == {**collectors, 16686: "16686"}


@each_combination
def test_jaeger_reads_the_configuration_of_every_overlay_in_any_order(overlays: tuple[str, ...]) -> None:
    jaeger = model(overlays)["services"]["jaeger"]
    named = [part.removeprefix("--config=") for part in jaeger["command"]]
    mounts = binds(jaeger)
    read = {(mounts.get(path) or DEPLOY / "jaeger" / Path(path).name).name for path in named}
    ours = {"persistent": "badger.yaml", "jaeger-only": "jaeger-only.yaml"}
    assert read - {"none.yaml"} == {"config.yaml", *(ours[overlay] for overlay in overlays if overlay in ours)}


@each_combination
def test_the_collector_reads_the_configuration_of_every_overlay_in_any_order(overlays: tuple[str, ...]) -> None:
    if "jaeger-only" in overlays:
        return
    collector = model(overlays)["services"]["otel-collector"]
    named = [part.removeprefix("--config=") for part in collector["command"]]
    mounts = binds(collector)
    read = [(mounts.get(path) or DEPLOY / "collector" / Path(path).name).name for path in named]
    ours = {
        "persistent": ["persistent.yaml", "persistent-logs.yaml"],
        "logs": ["logs.yaml"],
        "tail-sampling": ["load-balancing.yaml"],
    }
    expected = {"config.yaml", *(name for overlay in overlays for name in ours.get(overlay, ()))}
    assert {*read} - {"none.yaml"} == expected
    order = ["config.yaml", "persistent.yaml", "load-balancing.yaml", "logs.yaml", "persistent-logs.yaml"]
    assert [name for name in read if name != "none.yaml"] == [name for name in order if name in expected]


def test_the_log_store_is_a_data_source_and_a_target_only_with_its_overlay() -> None:
    places = {
        "grafana": "/etc/grafana/provisioning/datasources/logs.yaml",
        "prometheus": "/etc/prometheus/logs/loki.yml",
    }
    for overlays, counts in (((), [0, 0]), (("logs",), [1, 1])):
        found = {name: binds(model(overlays)["services"][name]) for name in places}
        files = [found[name].get(inside) or _beneath(inside, found[name]) for name, inside in places.items()]
        contents = [yaml.safe_load(path.read_text()) for path in files]
        assert [len(contents[0].get("datasources", [])), len(contents[1])] == counts


def _beneath(inside: str, mounts: dict[str, Path]) -> Path:
    """The file here that a container finds at a path in a mounted folder."""
    [folder] = [folder for folder in mounts if Path(inside).is_relative_to(folder)]
    return mounts[folder] / Path(inside).relative_to(folder)


def test_without_a_collector_none_is_missed() -> None:
    prometheus = model(("jaeger-only",))["services"]["prometheus"]
    [retired] = [one for one in prometheus["volumes"] if one["target"] == "/etc/prometheus/rules/retired.yml"]
    assert "job: otel-collector" in Path(retired["source"]).read_text()


# Secrets


def test_there_is_no_login_without_a_generated_password() -> None:
    grafana = model(())["services"]["grafana"]
    environment = grafana["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert [name for name in environment if "PASSWORD" in name] == ["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/grafana_admin_password"
    assert [secret["source"] for secret in grafana["secrets"]] == ["grafana_admin_password"]


def test_git_ignores_secrets() -> None:
    ignored = ["git", "check-ignore", "--quiet", "--no-index"]
    for path, is_ignored in (("secrets/grafana_admin_password", 0), (".env", 0), ("secrets/.gitkeep", 1)):
        assert subprocess.run([*ignored, path], cwd=ROOT, check=False).returncode == is_ignored, path


def test_make_creates_a_password_once(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "secrets").mkdir()
    password = tmp_path / "secrets" / "grafana_admin_password"
    made = []
    for _ in range(2):
        subprocess.run(["make", "secrets/grafana_admin_password"], cwd=tmp_path, check=True, capture_output=True)
        made.append(password.read_text())
    assert made[0] == made[1]
    assert re.fullmatch(r"[A-Za-z0-9+/]{32}", made[0])
    # Grafana's user can read the file; the folder excludes other users
    assert password.stat().st_mode & 0o777 == 0o644
    assert password.parent.stat().st_mode & 0o777 == 0o700


# Settings and versions


def test_env_example_lists_every_variable_with_its_default(tmp_path: Path) -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", "".join((ROOT / name).read_text() for name in FILES)))
    shown = re.sub(r"^#(?=[A-Z_]+=)", "", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    assert sorted(re.findall(r"^([A-Z_]+)=", shown, flags=re.MULTILINE)) == sorted(used)
    (tmp_path / "example.env").write_text(shown)
    for overlays in COMBINATIONS:
        done = compose(overlays, "config", "--format", "json", env_file=tmp_path / "example.env")
        assert json.loads(done.stdout) == model(overlays)


def versions() -> dict[str, str]:
    """`{image: version}` of deploy/VERSIONS.md."""
    rows = re.findall(
        r"^\| [^|]+ \| `([^`]+)` \| `([^`]+)` \|", (DEPLOY / "VERSIONS.md").read_text(), flags=re.MULTILINE
    )
    assert rows
    return dict(rows)


def test_images_have_the_versions_in_versions_md() -> None:
    images = {service["image"] for service in SERVICES.values() if "build" not in service}
    images |= set(re.findall(r"^FROM (\S+)", (DEPLOY / "demo" / "Dockerfile").read_text(), flags=re.MULTILINE))
    images = {image for image in images if not image.endswith(":local")}
    assert images == {f"{image}:{version}" for image, version in versions().items()}


def test_the_built_servers_have_the_versions_in_versions_md() -> None:
    rows = re.findall(
        r"^\| (\w+)[^|]*\|[^|]*\|[^|]*\| `([^`]+)`", (DEPLOY / "VERSIONS.md").read_text(), flags=re.MULTILINE
    )
    said = dict(rows)
    of_tests = {name: server.version for name, server in SERVERS.items()}
    named = {
        "OpenTelemetry": "collector",
        "Jaeger": "jaeger",
        "Prometheus": "prometheus",
        "Alertmanager": "alertmanager",
        "Loki": "loki",
    }
    assert {named[name]: version for name, version in said.items()} == {
        name: version for name, version in of_tests.items() if name in named.values()
    }


def test_no_other_file_has_a_different_version_of_an_image() -> None:
    decided = versions()
    names = "|".join(re.escape(image) for image in decided)
    wrong = [
        f"{path.relative_to(ROOT)}: {image}:{version}"
        for folder in ("deploy", "docs", "grafana", "otel_fastperf", "tools", "README.md", "docker-compose.yml")
        for path in ((ROOT / folder).rglob("*") if (ROOT / folder).is_dir() else [ROOT / folder])
        if path.is_file() and path.suffix in {".md", ".yml", ".yaml", ".py", ""}
        for image, version in re.findall(rf"({names}):([\w.-]+)", path.read_text(errors="replace"))
        if decided[image] != version
    ]
    assert not wrong


def test_the_minimal_collector_has_the_version_of_the_image() -> None:
    builder = yaml.safe_load((DEPLOY / "collector" / "builder.yaml").read_text())
    image = next(version for image, version in versions().items() if "collector" in image)
    assert builder["dist"]["version"] == image


# The smoke test


def test_smoke_names_a_service_that_does_not_answer_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    addresses = Addresses(
        collector=nowhere, jaeger=nowhere, prometheus=nowhere, alertmanager=nowhere, grafana=nowhere, loki=nowhere
    )
    output = StringIO()
    assert smoke(addresses, seconds=0, output=output) == 1
    lines = output.getvalue().splitlines()
    assert (
        f"FAILED  Jaeger        {nowhere}/api/v3/services refuses the connection: nothing listens there."
        " Remedy: `docker compose ps`, then `docker compose logs jaeger`"
    ) in lines
    assert lines[-1] == "9 steps failed."


def test_smoke_uses_the_ports_that_compose_publishes(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# ports\nJAEGER_PORT=1\nexport GRAFANA_PORT='2' # ours\nPROMETHEUS_PORT=3\n")
    found = Addresses.of(tmp_path, {"PROMETHEUS_PORT": "4"})
    assert found == Addresses(
        jaeger="http://127.0.0.1:1", grafana="http://127.0.0.1:2", prometheus="http://127.0.0.1:4"
    )
    assert Addresses.of(tmp_path / "nowhere", {}) == Addresses()
    with pytest.raises(
        SmokeError, match=r"^JAEGER_PORT=x: must be a port number\. Remedy: set it to a number in \.env$"
    ):
        Addresses.of(tmp_path, {"JAEGER_PORT": "x"})


# The demo's load


def test_the_demo_s_load_runs_until_a_signal() -> None:
    paths: list[str] = []

    class Shop(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - the name that http.server requires

        def log_message(self, *args: Any) -> None:
            """Log nothing."""

    with ExitStack() as stack:
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Shop))
        Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        command = [sys.executable, "-m", "demo.load", f"http://127.0.0.1:{server.server_port}"]
        process = stack.enter_context(subprocess.Popen(command, cwd=ROOT))
        stack.callback(process.kill)
        wait_until(lambda: len(paths) > 5, seconds=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    assert any(path.startswith("/products") for path in paths)

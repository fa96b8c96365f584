"""`docker compose up` on a real engine. The stack gets healthy, keeps a trace, and leaves nothing behind.

The images contain the real servers under the names of the pinned images; only Grafana is a stand-in, which the smoke
test shows. The demo's image is not built by its Dockerfile, which needs the internet: it contains the same files, this
machine's Python and the command of that Dockerfile. See engine.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

import pytest

from otel_fastperf.cli.stack.containers import containers
from tests.deploy import engine as engines
from tests.deploy.engine import STAND_IN, Engine, Stack
from tests.deploy.jaeger import for_built
from tests.deploy.servers import ROOT
from tests.deploy.test_compose import FILES, OVERLAYS, WITHOUT_HEALTH, model
from tests.serving import free_port, wait_until

pytestmark = [
    pytest.mark.skipif(bool(engines.missing()), reason=engines.missing()),
    pytest.mark.timeout(400),  # images of half a gigabyte, and up to a minute for the start
]

PORTS: Final = (
    "COLLECTOR_GRPC_PORT",
    "COLLECTOR_HTTP_PORT",
    "JAEGER_PORT",
    "PROMETHEUS_PORT",
    "ALERTMANAGER_PORT",
    "GRAFANA_PORT",
    "LOKI_PORT",
    "DEMO_PORT",
)
PASSWORD: Final = "secrets/grafana_admin_password"


@pytest.fixture(scope="module")
def docker() -> Iterator[Engine]:
    """An engine with the stack's images."""
    names = {
        name: service["image"]
        for overlay in ((), *((each,) for each in OVERLAYS if each != "demo"))
        for name, service in model(overlay)["services"].items()
    }
    with engines.engine() as found:
        for image in engines.images(names):
            found.add(image)
        yield found


class Start(Protocol):
    def __call__(self, *overlays: str, seconds: int = 60) -> AbstractContextManager[Stack]: ...


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A copy of the shipped files, with a password and an app on this machine as target."""
    folder = tmp_path / "stack"
    folder.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in ("deploy", "grafana"):
        shutil.copytree(ROOT / name, folder / name)
    overlay = folder / "deploy" / "jaeger" / "jaeger-only.yaml"
    overlay.write_text(for_built(overlay.read_text()))
    password = folder / PASSWORD
    password.parent.mkdir()
    password.write_text("correct horse battery staple")
    targets = folder / "deploy" / "prometheus" / "targets"
    for path in targets.glob("*"):
        path.unlink()
    return folder


@pytest.fixture
def start(docker: Engine, files: Path) -> Start:
    """Start the stack with overlays; remove it afterwards."""

    @contextmanager
    def run(*overlays: str, seconds: int = 60) -> Iterator[Stack]:
        ports = {name: free_port() for name in PORTS}
        stack = Stack(docker, files, f"test-{files.parent.name[-20:]}", ports, overlays)
        try:
            stack.compose("up", "--detach", "--wait", "--wait-timeout", str(seconds))
            yield stack
        finally:
            stack.compose("down", "--volumes", "--timeout", "5", check=False)

    return run


def smoke(stack: Stack, *options: str) -> str:
    """Run the smoke test, which must pass, and return its output."""
    command = [sys.executable, "-m", "otel_fastperf.cli.stack.smoke", *options]
    variables = {"PYTHONPATH": str(ROOT), **stack.variables}
    done = subprocess.run(command, cwd=stack.folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{stack.log()}"
    return done.stdout


def trace_of(output: str) -> str:
    """The id of the trace that the smoke test sent."""
    found = re.search(r"/trace/([0-9a-f]{32})", output)
    assert found is not None, output
    return found[1]


def test_nothing_starts_without_a_password(docker: Engine, files: Path) -> None:
    (files / PASSWORD).unlink()
    stack = Stack(docker, files, "test-no-password", {name: free_port() for name in PORTS})
    try:
        done = stack.compose("up", "--detach", check=False)
        assert done.returncode != 0
        assert f"does not exist: {files / PASSWORD}" in done.stderr
        assert not [name for name, service in stack.services().items() if service["State"] == "running"]
    finally:
        stack.compose("down", "--volumes")


@pytest.mark.filterwarnings("default:Grafana was a stand-in")
def test_the_stack_is_healthy_within_a_minute_accepts_a_trace_and_leaves_nothing(start: Start) -> None:
    with start() as stack:
        app = free_port()
        target = f'- targets: ["host.docker.internal:{app}"]\n  labels: {{job: shop}}\n'
        (stack.folder / "deploy" / "prometheus" / "targets" / "app.yml").write_text(target)
        server = 'from prometheus_client import start_http_server as s; s(int(__import__("sys").argv[1]))[1].join()'
        with subprocess.Popen([sys.executable, "-c", server, str(app)]) as process:
            try:
                output = smoke(stack, "--app", "shop")
            finally:
                process.kill()
        services = stack.services()
        assert set(services) == set(model(())["services"])
        for name, service in services.items():
            assert service["State"] == "running", name
            assert service["Health"] == ("" if name in WITHOUT_HEALTH else "healthy"), name
        assert re.search(r"^ok +Apps +Prometheus scrapes shop$", output, re.MULTILINE), output
        assert re.search(
            r"^ok +Targets +Prometheus scrapes alertmanager, jaeger, otel-collector, prometheus$", output, re.MULTILINE
        ), output
        assert re.search(r"^note +Logs +no log store, .* compose\.logs\.yml$", output, re.MULTILINE), output
        assert f"http://127.0.0.1:{stack.ports['GRAFANA_PORT']}" in output
        assert STAND_IN in output
        warnings.warn_explicit("Grafana was a stand-in in this test", UserWarning, __file__, 1)
        found = containers({"PATH": os.environ["PATH"], "DOCKER_HOST": stack.engine.host}) or ()
        assert {each.project for each in found if each.is_of(stack.folder)} == {stack.project}
        assert {port for each in found for port in each.ports} == {
            port for name, port in stack.ports.items() if name not in {"DEMO_PORT", "LOKI_PORT"}
        }
        stack.compose("down", "--volumes")
        assert stack.engine.left(stack.project) == []


def test_jaeger_alone_accepts_traces_at_the_collector_s_address_and_keeps_them_if_told_to(start: Start) -> None:
    with start("persistent", "jaeger-only") as stack:
        smoke(stack)
        assert set(stack.services()) - {"own-volumes"} == {"jaeger", "prometheus", "alertmanager", "grafana"}
        [volume] = (each for each in stack.container("jaeger")["Mounts"] if each["Destination"] == "/badger")
        assert any(Path(volume["Source"]).iterdir())


def test_with_volumes_traces_survive_the_containers(start: Start) -> None:
    with start("persistent") as stack:
        trace = trace_of(smoke(stack))
        for service, folder in (("jaeger", "/badger"), ("otel-collector", "/var/lib/otelcol")):
            mounts = {mount["Destination"]: Path(mount["Source"]) for mount in stack.container(service)["Mounts"]}
            owners = {path.stat().st_uid for path in (mounts[folder], *mounts[folder].rglob("*"))}
            assert owners == {10001}, service
            assert any(mounts[folder].iterdir()), service
        stack.compose("down")
        stack.compose("up", "--detach", "--wait", "--wait-timeout", "60")
        url = f"http://127.0.0.1:16686/api/v3/traces/{trace}"
        asked = ("exec", "--no-TTY", "jaeger", "wget", "-q", "-O", "-", url.replace("127.0.0.1", "jaeger"))
        wait_until(lambda: "otel-fastperf-smoke" in stack.compose(*asked, check=False).stdout, seconds=30, what=trace)
        smoke(stack)


def test_with_a_log_store_records_are_found_by_their_trace_and_queues_are_on_disk_if_told_to(start: Start) -> None:
    with start("persistent", "logs", seconds=100) as stack:
        output = smoke(stack)
        assert re.search(r"^ok +Logs +found by its trace id ", output, re.MULTILINE), output
        assert re.search(r"^ok +Targets +Prometheus scrapes .*jaeger, loki, otel-", output, re.MULTILINE), output
        assert stack.services()["loki"]["Health"] == "healthy"
        mounts = {mount["Destination"]: Path(mount["Source"]) for mount in stack.container("otel-collector")["Mounts"]}
        queues = {path.name for path in (mounts["/var/lib/otelcol"] / "queues").iterdir()}
        assert any("logs" in name for name in queues), queues


def test_two_tiers_with_replicas_start_at_once_and_keep_traces_with_findings(start: Start) -> None:
    with start("tail-sampling") as stack:
        # the trace has a finding
        output = smoke(stack)
        assert re.search(r"^ok +Targets +Prometheus scrapes .*otel-collector, otel-sampler, ", output, re.MULTILINE), (
            output
        )
        label = json.dumps({"label": [f"com.docker.compose.project={stack.project}"]})
        found = stack.engine.ask("GET", "/containers/json", all="true", filters=label)
        samplers = [each["Id"] for each in found if each["Labels"]["com.docker.compose.service"] == "otel-sampler"]
        states = [stack.engine.ask("GET", f"/containers/{each}/json") for each in samplers]
        assert [(state["State"]["Status"], state["RestartCount"]) for state in states] == [("running", 0)] * 2
        asked = ("exec", "--no-TTY", "prometheus", "wget", "-q", "-O", "-", "http://127.0.0.1:9090/api/v1/query?query=")
        up = stack.compose(*asked[:-1], f"{asked[-1]}count(up%7Bjob%3D%22otel-sampler%22%7D%3D%3D1)").stdout
        assert json.loads(up)["data"]["result"][0]["value"][1] == "2"


@pytest.mark.skipif(not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="needs PostgreSQL's programs")
def test_the_demo_runs_on_postgresql_is_scraped_and_traced(start: Start, docker: Engine) -> None:
    for image in engines.demo_images(
        {name: service["image"] for name, service in model(("demo",))["services"].items()}
    ):
        docker.add(image)
    with start("demo", seconds=100) as stack:
        demo = stack.folder / "deploy" / "prometheus" / "targets" / "demo.yml"
        shutil.copy(ROOT / "deploy" / "prometheus" / "targets" / "demo.yml", demo)
        smoke(stack, "--app", "shop")
        services = stack.services()
        assert {name for name, each in services.items() if each["Health"] == "healthy"} >= {"demo", "postgres"}
        asked = ("exec", "--no-TTY", "jaeger", "wget", "-q", "-O", "-", "http://jaeger:16686/api/v3/services")
        wait_until(lambda: '"shop"' in stack.compose(*asked).stdout, seconds=30)
        assert services["load"]["State"] == "running"
        stack.compose("down", "--volumes")
        assert stack.engine.left(stack.project) == []

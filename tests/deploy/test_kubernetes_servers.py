"""What deploy/kubernetes configures, run by the real servers; and what the operator injects, in a real app."""

import json
import re
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest
import yaml

from otel_fastperf.zero_code.distro import _REPLACED
from tests.deploy.jaeger import Jaeger, Ports, for_built
from tests.deploy.kafka import running_kafka
from tests.deploy.kubernetes import (
    FOLDER,
    OVERLAYS,
    Object,
    config_files,
    manifests,
    needs_kustomize,
    of_kind,
    prometheus_config,
    prometheus_flags,
    rendered,
    values,
)
from tests.deploy.servers import ROOT, answers, needs, program, running
from tests.deploy.spans import Sent, export
from tests.otlp import Receiver
from tests.prometheus import Prometheus
from tests.serving import free_port, wait_until

FILES: Final = manifests()
#: the overlay whose collectors and Jaegers have Kafka between them
WITH_KAFKA: Final = "overlays/scale-out"


# The collector and Jaeger


def started(name: str, deployment: str, mount: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a pod's server, with the files that it sees in `folder`."""
    for file, text in config_files(rendered(name), deployment, mount).items():
        (folder / deployment).mkdir(exist_ok=True)
        is_config = deployment == "jaeger" and file.endswith(".yaml")
        (folder / deployment / file).write_text(for_built(text) if is_config else text)
    [container] = of_kind(rendered(name), "Deployment")[deployment]["spec"]["template"]["spec"]["containers"]
    arguments = [each.replace(mount, str(folder / deployment)) for each in container["args"]]
    return arguments, {each["name"]: each["value"] for each in container["env"]}


@contextmanager
def rendered_jaeger(name: str, folder: Path, **further: str) -> Iterator[Jaeger]:
    """The Jaeger of an overlay; `otlp_grpc_port` is where it receives. OpenSearch is not here: memory stands in."""
    ports = Ports()
    arguments, variables = started(name, "jaeger", "/etc/jaeger", folder)
    arguments = [each for each in arguments if not each.endswith("/opensearch.yaml")]
    variables |= {
        "JAEGER_LISTEN_GRPC": str(ports.otlp_grpc),
        "JAEGER_LISTEN_HTTP": str(ports.otlp_http),
        "JAEGER_LISTEN_UI": str(ports.ui),
        "JAEGER_LISTEN_QUERY_GRPC": str(ports.query_grpc),
        "JAEGER_LISTEN_HEALTH": str(ports.health),
        "JAEGER_LISTEN_METRICS": str(ports.metrics),
        "JAEGER_UI_CONFIG": str(folder / "jaeger" / "ui-config.json"),
        "JAEGER_BADGER": str(folder / "badger"),
        **further,
    }
    # the probe of the pod
    ready = f"http://127.0.0.1:{ports.health}/status"
    command: list[str | Path] = [program("jaeger"), *arguments]
    with running(command, folder / "jaeger.log", lambda: answers(ready), variables=variables) as server:
        yield Jaeger(server, f"http://127.0.0.1:{ports.ui}", ports.otlp_grpc, ports.otlp_http, "")


@contextmanager
def rendered_collector(name: str, deployment: str, folder: Path, **further: str) -> Iterator[tuple[int, int]]:
    """A collector of an overlay; its ports for gRPC and HTTP."""
    grpc, http, health = free_port(), free_port(), free_port()
    arguments, variables = started(name, deployment, "/etc/otelcol", folder)
    variables |= {
        "COLLECTOR_LISTEN_GRPC": str(grpc),
        "COLLECTOR_LISTEN_HTTP": str(http),
        "COLLECTOR_LISTEN_HEALTH": str(health),
        "COLLECTOR_LISTEN_METRICS": str(free_port()),
        "PROMETHEUS_ENDPOINT": "http://127.0.0.1:9",
        **further,
    }
    # the probe of the pod
    ready = f"http://127.0.0.1:{health}/"
    command: list[str | Path] = [program("collector"), *arguments]
    with running(command, folder / f"{deployment}.log", lambda: answers(ready), variables=variables):
        yield grpc, http


@needs("collector", "jaeger")
@needs_kustomize
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs("kafka") if name == WITH_KAFKA else ()) for name in OVERLAYS]
)
def test_a_span_that_the_collector_of_an_overlay_receives_is_found_in_its_jaeger(name: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        kafka = {}
        if name == WITH_KAFKA:
            kafka["KAFKA_BROKERS"] = f"[127.0.0.1:{stack.enter_context(running_kafka(tmp_path))}]"
        jaeger = stack.enter_context(rendered_jaeger(name, tmp_path, **kafka))
        to_jaeger = {"JAEGER_ENDPOINT": f"127.0.0.1:{jaeger.otlp_grpc_port}", **kafka}
        if "otel-sampler" in of_kind(rendered(name), "Deployment"):
            variables = {**to_jaeger, "TAIL_DECISION_WAIT": "1s"}
            sampler = stack.enter_context(rendered_collector(name, "otel-sampler", tmp_path, **variables))
            to_jaeger = {"SAMPLERS_HOST": "127.0.0.1", "SAMPLERS_PORT": str(sampler[0])}
        _, http = stack.enter_context(rendered_collector(name, "otel-collector", tmp_path, **to_jaeger))
        # samplers keep errors
        sent = Sent("GET /items", error="it failed")
        assert export(f"http://127.0.0.1:{http}", [sent], service="shop") == 200
        [span] = jaeger.wait_for(sent.trace_id, seconds=60)
    assert (span.name, span.service, span.failed) == ("GET /items", "shop", True)


# Prometheus


def discovered(name: str, port: str = "http", **labels: str) -> dict[str, str]:
    """The labels of a pod, as discovery makes them: `label_…` and `annotation_…` are the pod's own."""
    own = {f"__meta_kubernetes_pod_{key}": value for key, value in labels.items()}
    return {
        # nobody listens
        "__address__": "127.0.0.1:9",
        "__meta_kubernetes_namespace": "shops",
        "__meta_kubernetes_pod_name": name,
        "__meta_kubernetes_pod_container_port_name": port,
        "__meta_kubernetes_pod_container_port_number": "8888" if port == "metrics" else "8000",
        **own,
    }


@needs("prometheus")
def test_prometheus_knows_pods_by_the_service_name_of_their_traces_and_loads_all_rules(tmp_path: Path) -> None:
    spec = values("kube-prometheus-stack")["prometheus"]["prometheusSpec"]
    monitors = [each for objects in FILES.values() for each in objects if each["kind"] == "PodMonitor"]
    rules = list(_as_rule_files(tmp_path))
    named = {"label_app_kubernetes_io_name": "shop", "label_otel_fastperf_scrape": "true"}
    instance = {"label_app_kubernetes_io_instance": "shop-eu"}
    annotated = {"annotation_resource_opentelemetry_io_service_name": "shop-of-annotation"}
    pods = [
        discovered("shop-1", **named),
        discovered("shop-2", **named, **instance),
        discovered("shop-3", **named, **instance, **annotated),
        discovered("unlabelled", label_app_kubernetes_io_name="shop"),
        discovered("other-port", "grpc", **named),
        discovered("collector-1", "metrics", label_app_kubernetes_io_name="otel-collector"),
        discovered("sampler-1", "metrics", label_app_kubernetes_io_name="otel-sampler"),
        discovered("jaeger-1", "metrics", label_app_kubernetes_io_name="jaeger"),
    ]
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(prometheus_config(spec, monitors, pods, rules)))
    promtool: list[str | Path] = [program("prometheus", "promtool"), "check", "config", config]
    checked = subprocess.run(promtool, capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    prometheus = Prometheus(f"http://127.0.0.1:{free_port()}")
    command: list[str | Path] = [
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={prometheus.url.removeprefix('http://')}",
        *prometheus_flags(spec),
    ]
    with running(command, tmp_path / "prometheus.log", lambda: answers(f"{prometheus.url}/-/ready")):
        found = wait_until(
            lambda: found if len(found := prometheus.targets()) >= 6 else None, what="Prometheus has read its targets"
        )
        with urlopen(f"{prometheus.url}/api/v1/rules", timeout=10) as response:
            loaded = json.load(response)["data"]["groups"]
    labels = {(each["labels"]["pod"], each["labels"]["job"], each["labels"]["instance"]) for each in found}
    assert labels == {
        ("shop-1", "shop", "shop-1:8000"),
        ("shop-2", "shop-eu", "shop-2:8000"),
        ("shop-3", "shop-of-annotation", "shop-3:8000"),
        ("collector-1", "otel-collector", "127.0.0.1:9"),
        ("sampler-1", "otel-collector", "127.0.0.1:9"),
        ("jaeger-1", "jaeger", "127.0.0.1:9"),
    }
    assert {each["labels"]["namespace"] for each in found} == {"shops"}
    expected = [group["name"] for path in rules for group in yaml.safe_load(path.read_text())["groups"]]
    assert sorted(group["name"] for group in loaded) == sorted(expected)


def _as_rule_files(folder: Path) -> Iterator[Path]:
    """The files that the operator makes of the objects."""
    rules: list[Object] = [each for objects in FILES.values() for each in objects if each["kind"] == "PrometheusRule"]
    assert rules
    for each in rules:
        path = folder / f"{each['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(each["spec"]))
        yield path


# OpenTelemetry's operator

#: what the operator sets for Python, unless the object or the pod does
OF_OPERATOR: Final = {
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp",
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_RESOURCE_ATTRIBUTES": "k8s.namespace.name=shops,service.instance.id=shops.shop-1.shop",
}
#: the packages of a service's own image, by name of their files
OF_APP: Final = ("uvicorn*", "click*", "h11*", "typing_extensions*", "idna*", "aiosqlite*")
APP: Final = """
from fastapi import FastAPI
from sqlalchemy import create_engine, text

engine = create_engine("sqlite://")
app = FastAPI()

@app.get("/items")
def items() -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
"""


def left_out() -> list[str]:
    """The patterns of the files that the Dockerfile removes, because apps bring them."""
    dockerfile = (FOLDER / "operator" / "Dockerfile").read_text()
    removed = re.search(r"rm -rf ((?:\S+\s+(?:\\\n\s*)?)+)", dockerfile)
    assert removed is not None
    return removed.group(1).replace("\\", " ").split()


def test_the_image_leaves_out_what_every_app_brings() -> None:
    """Otherwise the app would run on our versions of its framework."""
    patterns = left_out()
    for name in ("fastapi", "starlette", "pydantic", "pydantic_core", "sqlalchemy", "anyio", "greenlet"):
        assert any(fnmatch(name, pattern) for pattern in patterns), name
    for name in ("otel_fastperf", "opentelemetry", "prometheus_client", "grpc", "wrapt"):
        assert not any(fnmatch(name, pattern) for pattern in patterns), name


def test_the_agent_is_told_to_leave_out_what_this_package_replaces() -> None:
    [instrumentation] = FILES["operator/instrumentation.yaml"]
    given = {each["name"]: each["value"] for each in instrumentation["spec"]["python"]["env"]}
    assert set(given["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"].split(",")) == set(_REPLACED)


def _linked(into: Path, *, of_app: bool) -> Path:
    """A folder with the packages of the app's image, or of the operator's."""
    into.mkdir()
    app = [*OF_APP, *left_out()]
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.suffix != ".pth" and any(fnmatch(path.name, pattern) for pattern in app) == of_app:
            (into / path.name).symlink_to(path)
    if not of_app:
        (into / "otel_fastperf").unlink(missing_ok=True)
        (into / "otel_fastperf").symlink_to(ROOT / "otel_fastperf")
    return into


def test_an_app_is_observed_with_the_files_and_variables_that_the_operator_injects(tmp_path: Path) -> None:
    [instrumentation] = FILES["operator/instrumentation.yaml"]
    python = instrumentation["spec"]["python"]
    injected, own = _linked(tmp_path / "injected", of_app=False), _linked(tmp_path / "own", of_app=True)
    (tmp_path / "shop.py").write_text(APP)
    venv.create(tmp_path / "venv", with_pip=False)
    auto = injected / "opentelemetry" / "instrumentation" / "auto_instrumentation"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Receiver() as receiver:
        variables = {
            **OF_OPERATOR,
            **{each["name"]: each["value"] for each in python["env"]},
            "OTEL_SERVICE_NAME": "shop",
            "OTEL_PROPAGATORS": ",".join(instrumentation["spec"]["propagators"]),
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            # the app's own path is between the two
            "PYTHONPATH": f"{auto}:{own}:{tmp_path}:{injected}",
        }
        command: list[str | Path] = [
            tmp_path / "venv" / "bin" / "python",
            "-m",
            "uvicorn",
            "--port",
            str(port),
            "shop:app",
        ]
        with running(command, tmp_path / "log", lambda: answers(f"{url}/openapi.json"), variables=variables) as server:
            assert answers(f"{url}/items")
            with urlopen(f"{url}/metrics", timeout=10) as response:
                metrics = response.read().decode()
            wait_until(lambda: len(_of(receiver, "/items")) == 1, what=f"a span of the request; {server.log}")
        names = {span.name for span in receiver.spans}
    assert "nothing can be instrumented" not in server.log
    assert "fastperf_build_info" in metrics
    assert {"GET /items", "SELECT"} <= names
    assert {span.resource["service.name"] for span in receiver.spans} == {"shop"}
    assert {span.resource["k8s.namespace.name"] for span in receiver.spans} == {"shops"}


def _of(receiver: Receiver, route: str) -> list[Any]:
    return [span for span in receiver.spans if span.attributes.get("http.route") == route]

"""The manifests of deploy/kubernetes: read, rendered, validated, and as Prometheus' operator reads them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from tests.deploy.servers import DEPLOY
from tools.servers import built

FOLDER: Final = DEPLOY / "kubernetes"
SCHEMAS: Final = Path(__file__).parent / "schemas"
KUSTOMIZATIONS: Final = sorted(
    path.parent.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("kustomization.yaml")
)
OVERLAYS: Final = [name for name in KUSTOMIZATIONS if name.startswith("overlays/")]

Object = dict[str, Any]


def manifests() -> dict[str, list[Object]]:
    """The objects by file, without kustomizations and values."""
    found = {path.relative_to(FOLDER).as_posix(): path for path in sorted(FOLDER.rglob("*.yaml"))}
    return {
        name: list(yaml.safe_load_all(path.read_text()))
        for name, path in found.items()
        if path.name != "kustomization.yaml" and not name.startswith("values/")
    }


def values(name: str) -> dict[str, Any]:
    """The values for a chart."""
    read: dict[str, Any] = yaml.safe_load((FOLDER / "values" / f"{name}.yaml").read_text())
    return read


def _kustomize() -> list[str] | None:
    own, kubectl = built("kustomize"), shutil.which("kubectl")
    if own:
        return [str(own), "build"]
    return [kubectl, "kustomize"] if kubectl else None


needs_kustomize: Final = pytest.mark.skipif(
    _kustomize() is None, reason="neither kubectl nor kustomize is here; `make test-stack` builds the latter (needs Go)"
)


def render(folder: Path) -> str:
    """What kustomize makes of a folder."""
    command = _kustomize()
    assert command is not None
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    # a deprecated field is a warning
    assert not done.stderr, done.stderr
    return done.stdout


@cache
def rendered(name: str) -> tuple[Object, ...]:
    """The objects of a kustomization in deploy/kubernetes."""
    return tuple(yaml.safe_load_all(render(FOLDER / name)))


def of_kind(objects: Iterable[Object], kind: str) -> dict[str, Object]:
    """`{name: object}`."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def config_files(objects: Iterable[Object], deployment: str, mount: str) -> dict[str, str]:
    """The files that a Deployment sees in this folder."""
    objects = list(objects)
    pod = of_kind(objects, "Deployment")[deployment]["spec"]["template"]["spec"]
    [volume] = [each["name"] for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == mount]
    [name] = [each["configMap"]["name"] for each in pod["volumes"] if each["name"] == volume]
    files: dict[str, str] = of_kind(objects, "ConfigMap")[name]["data"]
    return files


def schema_errors(item: Object) -> list[str]:
    """What the schema of its kind says against an object."""
    group, _, version = item["apiVersion"].rpartition("/")
    parts = [item["kind"].lower(), *filter(None, [group.split(".")[0]]), version]
    schema = _schema("-".join(parts))
    return [f"{error.json_path}: {error.message}" for error in schema.iter_errors(item)]


@cache
def _schema(name: str) -> Any:
    return jsonschema.Draft7Validator(json.loads((SCHEMAS / f"{name}.json").read_text()))


# As Prometheus' operator does it


def prometheus_config(
    spec: Mapping[str, Any], monitors: Iterable[Object], pods: Iterable[Mapping[str, str]], rules: Iterable[Path] = ()
) -> dict[str, Any]:
    """prometheus.yml for the `spec` of a Prometheus and these PodMonitors. Pods are labels, as discovery makes them."""
    return {
        "global": {
            "scrape_interval": spec["scrapeInterval"],
            "scrape_timeout": spec["scrapeTimeout"],
            "evaluation_interval": spec["evaluationInterval"],
            "external_labels": spec["externalLabels"],
            "metric_name_escaping_scheme": spec["nameEscapingScheme"].lower(),
        },
        "rule_files": [str(path) for path in rules],
        "alerting": {"alert_relabel_configs": spec["additionalAlertRelabelConfigs"]},
        "scrape_configs": [_scrape_config(monitor, list(pods)) for monitor in monitors],
        "otlp": _snake(spec["otlp"]),
        "storage": {
            "tsdb": {"out_of_order_time_window": spec["tsdb"]["outOfOrderTimeWindow"]},
            "exemplars": {"max_exemplars": spec["exemplars"]["maxSize"]},
        },
    }


def prometheus_flags(spec: Mapping[str, Any]) -> list[str]:
    """The flags that depend on the `spec`."""
    return [
        f"--enable-feature={','.join(spec['enableFeatures'])}",
        f"--rules.alert.for-grace-period={spec['rules']['alert']['forGracePeriod']}",
        *(["--web.enable-otlp-receiver"] if spec["enableOTLPReceiver"] else []),
    ]


def _scrape_config(monitor: Object, pods: list[Mapping[str, str]]) -> dict[str, Any]:
    spec = monitor["spec"]
    [endpoint] = spec["podMetricsEndpoints"]
    limits = {_snake_word(key): value for key, value in spec.items() if key.endswith("Limit")}
    return {
        "job_name": f"podMonitor/telemetry/{monitor['metadata']['name']}/0",
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["scrapeTimeout"],
        "metrics_path": endpoint.get("path", "/metrics"),
        "static_configs": [{"targets": [pod["__address__"]], "labels": dict(pod)} for pod in pods],
        "relabel_configs": list(_relabelings(monitor, endpoint)),
        **limits,
    }


def _relabelings(monitor: Object, endpoint: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Pods that are meant, then labels of the pod, then the monitor's own rules."""
    pod = "__meta_kubernetes_pod"
    for key, value in monitor["spec"]["selector"]["matchLabels"].items():
        yield {"action": "keep", "source_labels": [f"{pod}_label_{_label(key)}"], "regex": value}
    by = "container_port_name" if "port" in endpoint else "container_port_number"
    port = str(endpoint.get("port") or endpoint["portNumber"])
    yield {"action": "keep", "source_labels": [f"{pod}_{by}"], "regex": port}
    yield {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"}
    yield {"source_labels": [f"{pod}_name"], "target_label": "pod"}
    yield {"target_label": "job", "replacement": f"telemetry/{monitor['metadata']['name']}"}
    if "jobLabel" in monitor["spec"]:
        label = f"{pod}_label_{_label(monitor['spec']['jobLabel'])}"
        yield {"source_labels": [label], "regex": "(.+)", "target_label": "job"}
    for relabeling in endpoint.get("relabelings", ()):
        yield _snake(relabeling)


def _label(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _snake(value: Mapping[str, Any]) -> dict[str, Any]:
    return {_snake_word(key): each for key, each in value.items()}


def _snake_word(word: str) -> str:
    return re.sub(r"[A-Z]", lambda found: f"_{found.group().lower()}", word)

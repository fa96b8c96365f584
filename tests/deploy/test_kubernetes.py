"""deploy/kubernetes: the manifests are valid, fit together and say what the rest of the stack says.

test_kubernetes_servers.py runs what they configure.
"""

import copy
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from otel_fastperf.cli.stack.files import Answers, filled, prometheus_rules, shipped
from tests.deploy.kubernetes import (
    FOLDER,
    KUSTOMIZATIONS,
    OVERLAYS,
    SCHEMAS,
    Object,
    config_files,
    manifests,
    needs_kustomize,
    of_kind,
    prometheus_config,
    render,
    rendered,
    schema_errors,
    values,
)
from tests.deploy.servers import DEPLOY, GRAFANA, ROOT, needs, program

FILES: Final = manifests()
OBJECTS: Final = {f"{name}: {each['kind']}": each for name, objects in FILES.items() for each in objects}
BASE: Final = [each for name, objects in FILES.items() if name.startswith("base/") for each in objects]
PODS: Final = {name: each for name, each in OBJECTS.items() if each["kind"] == "Deployment"}

in_each_kustomization = pytest.mark.parametrize("name", KUSTOMIZATIONS)
in_each_overlay = pytest.mark.parametrize("name", OVERLAYS)
each_pod = pytest.mark.parametrize("name", PODS)


def container(deployment: Object) -> dict[str, Any]:
    [found] = deployment["spec"]["template"]["spec"]["containers"]
    only: dict[str, Any] = found
    return only


def environment(deployment: Object) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(deployment)["env"]}


def mebibytes(quantity: str) -> int:
    number, unit = int(quantity[:-2]), quantity[-2:]
    return number * {"Mi": 1, "Gi": 1024}[unit]


# Objects


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_has_a_name_and_follows_the_schema_of_its_kind(name: str) -> None:
    assert OBJECTS[name]["metadata"]["name"]
    assert schema_errors(OBJECTS[name]) == []


def test_the_schemas_reject_a_field_that_does_not_exist_and_a_wrong_value() -> None:
    for each in OBJECTS.values():
        if each["kind"] in {"ServiceAccount", "Namespace"}:
            continue
        broken = copy.deepcopy(each)
        broken["spec"]["podMonitorEndpoints"] = []
        assert schema_errors(broken), each["kind"]
    monitor = copy.deepcopy(of_kind(FILES["monitoring/pod-monitors.yaml"], "PodMonitor")["jaeger"])
    monitor["spec"]["sampleLimit"] = "many"
    assert schema_errors(monitor) == ["$.spec.sampleLimit: 'many' is not of type 'integer'"]


@needs_kustomize
@in_each_kustomization
def test_kustomize_renders_it_without_a_warning_into_valid_objects_with_distinct_names(name: str) -> None:
    objects = rendered(name)
    assert [error for each in objects for error in schema_errors(each)] == []
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)


@needs("kubeconform")
@needs_kustomize
@in_each_kustomization
def test_kubeconform_accepts_it_strictly(name: str, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(render(FOLDER / name))
    where = f"{SCHEMAS}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    command: list[str | Path] = [
        program("kubeconform"),
        "-strict",
        "-summary",
        "-schema-location",
        where,
        tmp_path / "all.yaml",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Valid: [1-9]\d*, Invalid: 0, Errors: 0, Skipped: 0", done.stdout), done.stdout


@needs_kustomize
@in_each_overlay
def test_everything_of_an_overlay_is_in_one_namespace_that_it_creates(name: str) -> None:
    objects = rendered(name)
    assert set(of_kind(objects, "Namespace")) == {"telemetry"}
    assert {each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"} == {"telemetry"}


@needs_kustomize
@in_each_overlay
def test_an_object_is_small_enough_for_kubectl_apply(name: str) -> None:
    """It keeps a copy of the object in an annotation, and annotations have at most 256 KiB."""
    assert max(len(yaml.safe_dump(each)) for each in rendered(name)) < 200 * 1024


# Pods


@each_pod
def test_a_pod_meets_the_restricted_standard_and_has_a_read_only_root(name: str) -> None:
    pod = PODS[name]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(PODS[name])["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    writable = {each["name"] for each in pod["volumes"] if "emptyDir" in each and "sizeLimit" not in each["emptyDir"]}
    assert writable == set()


@each_pod
def test_a_pod_has_probes_on_a_port_that_it_declares_and_limits(name: str) -> None:
    only = container(PODS[name])
    ports = {each["name"] for each in only["ports"]}
    for probe in ("readinessProbe", "livenessProbe"):
        assert only[probe]["httpGet"]["port"] in ports
    for kind in ("requests", "limits"):
        assert set(only["resources"][kind]) == {"cpu", "memory"}


def every_go_server() -> Iterator[Object]:
    yield from of_kind(BASE, "Deployment").values()
    for name in OVERLAYS:
        deployments = of_kind(rendered(name), "Deployment")
        yield from (each for server, each in deployments.items() if server != "shop")


@needs_kustomize
def test_gomemlimit_is_four_fifths_of_the_memory_limit() -> None:
    for deployment in every_go_server():
        limit = mebibytes(container(deployment)["resources"]["limits"]["memory"])
        assert environment(deployment)["GOMEMLIMIT"] == f"{limit * 8 // 10}MiB"


@needs_kustomize
def test_the_servers_know_every_variable_that_they_get() -> None:
    for deployment in every_go_server():
        folder = "jaeger" if deployment["metadata"]["name"] == "jaeger" else "collector"
        texts = "".join(path.read_text() for path in (DEPLOY / folder).rglob("*.yaml"))
        unknown = {name for name in environment(deployment) if f"${{env:{name}" not in texts}
        assert unknown == {"GOMEMLIMIT"}


@needs_kustomize
def test_an_overlay_s_samplers_are_the_only_ones_that_may_send_to_its_jaeger() -> None:
    objects = rendered("overlays/tail-sampling")
    gateway = of_kind(objects, "Deployment")["otel-collector"]
    assert environment(gateway)["SAMPLERS_HOST"] in of_kind(objects, "Service")
    policies = of_kind(objects, "NetworkPolicy")
    to_samplers = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "otel-sampler"}}}
    assert {"to": [to_samplers], "ports": [{"port": 4317}]} in policies["otel-collector"]["spec"]["egress"]
    assert policies["jaeger"]["spec"]["ingress"][0] == {"from": [to_samplers], "ports": [{"port": 4317}]}


@needs_kustomize
def test_between_samplers_and_jaegers_that_scale_out_is_nothing_but_kafka() -> None:
    objects = rendered("overlays/scale-out")
    deployments, policies = of_kind(objects, "Deployment"), of_kind(objects, "NetworkPolicy")
    brokers = {environment(deployments[name])["KAFKA_BROKERS"] for name in ("otel-sampler", "jaeger")}
    assert len(brokers) == 1
    kafka = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kafka"}}}
    for name in ("otel-sampler", "jaeger"):
        assert {"to": [kafka], "ports": [{"port": 9092}]} in policies[name]["spec"]["egress"]
    ports = {port["port"] for each in policies["jaeger"]["spec"]["ingress"] for port in each["ports"]}
    assert 4317 not in ports
    assert not of_kind(objects, "PersistentVolumeClaim")
    mounted = {each["name"] for each in container(deployments["jaeger"])["volumeMounts"]}
    assert mounted == {each["name"] for each in deployments["jaeger"]["spec"]["template"]["spec"]["volumes"]}


@needs_kustomize
def test_jaeger_s_traces_fit_into_sixty_per_cent_of_its_memory() -> None:
    for name in ("base", "overlays/kind"):
        jaeger = of_kind(rendered(name), "Deployment")["jaeger"]
        traces = int(environment(jaeger).get("JAEGER_MAX_TRACES", "5000"))
        # 20 spans of 3 KB each
        assert traces * 20 * 3 / 1024 < 0.6 * mebibytes(container(jaeger)["resources"]["limits"]["memory"])


# What refers to what


def pods_of(objects: list[Object]) -> dict[str, tuple[dict[str, str], dict[str, int]]]:
    """`{deployment: (labels, ports)}`."""
    return {
        name: (
            each["spec"]["template"]["metadata"]["labels"],
            {port["name"]: port["containerPort"] for port in container(each)["ports"]},
        )
        for name, each in of_kind(objects, "Deployment").items()
    }


def selected(labels: dict[str, str], pods: dict[str, tuple[dict[str, str], dict[str, int]]]) -> set[str]:
    return {name for name, (of_pod, _) in pods.items() if labels.items() <= of_pod.items()}


@needs_kustomize
@in_each_overlay
def test_each_selector_finds_the_pods_of_its_name(name: str) -> None:
    objects = list(rendered(name))
    pods = pods_of(objects)
    for kind, path in (("Service", "selector"), ("NetworkPolicy", "podSelector"), ("PodDisruptionBudget", "selector")):
        for found, each in of_kind(objects, kind).items():
            selector = each["spec"][path]
            assert selected(selector.get("matchLabels", selector), pods) == {found}, (kind, found)
    for scaler in of_kind(objects, "HorizontalPodAutoscaler").values():
        target = of_kind(objects, "Deployment")[scaler["spec"]["scaleTargetRef"]["name"]]
        # otherwise each `kubectl apply` undoes what the autoscaler did
        assert "replicas" not in target["spec"]


@needs_kustomize
@in_each_overlay
def test_services_and_policies_open_ports_of_their_pods(name: str) -> None:
    objects = list(rendered(name))
    pods = pods_of(objects)
    for found, service in of_kind(objects, "Service").items():
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(pods[found][1])
    for found, policy in of_kind(objects, "NetworkPolicy").items():
        named = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert named <= set(pods[found][1].values())


def test_the_collector_and_jaeger_may_connect_and_no_one_else_to_jaeger_s_receiver() -> None:
    policies = of_kind(BASE, "NetworkPolicy")
    to_jaeger = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "jaeger"}}}
    assert {"to": [to_jaeger], "ports": [{"port": 4317}]} in policies["otel-collector"]["spec"]["egress"]
    senders = [rule["from"] for rule in policies["jaeger"]["spec"]["ingress"] if {"port": 4317} in rule["ports"]]
    assert senders == [[{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "otel-collector"}}}]]


@needs_kustomize
@in_each_overlay
def test_the_pods_mount_the_configuration_of_the_stack(name: str) -> None:
    objects = rendered(name)
    for deployment in of_kind(objects, "Deployment").keys() - {"shop"}:
        folder, mount = ("jaeger", "/etc/jaeger") if deployment == "jaeger" else ("collector", "/etc/otelcol")
        files = config_files(objects, deployment, mount)
        here = {path.name: path for path in (DEPLOY / folder).rglob("*.*")}
        assert {key: here[key].read_text() for key in files} == files
        given = container(of_kind(objects, "Deployment")[deployment])["args"]
        assert {path.removeprefix(f"--config={mount}/") for path in given} <= set(files)


def test_no_configuration_is_left_out_of_a_config_map() -> None:
    def listed(folder: Path) -> set[str]:
        [*generators] = yaml.safe_load((folder / "kustomization.yml").read_text())["configMapGenerator"]
        return {name for each in generators for name in each["files"]}

    collector, jaeger = DEPLOY / "collector", DEPLOY / "jaeger"
    overlays = {f"overlays/{path.name}" for path in (collector / "overlays").iterdir()}
    assert listed(collector) == {"config.yaml", *overlays}
    # what is for compose only
    elsewhere = {"jaeger-only.yaml", "none.yaml"}
    assert listed(jaeger) == {path.name for path in jaeger.glob("*.yaml")} - elsewhere | {"ui-config.json"}
    assert listed(GRAFANA) == {f"dashboards/{path.name}" for path in (GRAFANA / "dashboards").iterdir()}


@needs_kustomize
def test_each_dashboard_is_in_a_config_map_with_the_label_of_grafana_s_sidecar() -> None:
    maps = of_kind(rendered("monitoring"), "ConfigMap").values()
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in maps)
    contents = {name: text for each in maps for name, text in each["data"].items()}
    assert contents == {path.name: path.read_text() for path in (GRAFANA / "dashboards").glob("*.json")}


# Prometheus and Alertmanager


def test_the_rules_are_those_of_prometheus() -> None:
    """Run `make kubernetes` to write them."""
    wanted = prometheus_rules(shipped(ROOT))
    listed = yaml.safe_load((FOLDER / "monitoring" / "kustomization.yaml").read_text())["resources"]
    assert {f"deploy/kubernetes/monitoring/{name}" for name in listed if name.startswith("rules/")} == set(wanted)
    for path, content in wanted.items():
        assert (ROOT / path).read_bytes() == content, "run `make kubernetes`"
        source = DEPLOY / "prometheus" / "rules" / f"{Path(path).stem}.yml"
        assert yaml.safe_load(content)["spec"] == yaml.safe_load(source.read_text())


def test_every_pod_that_a_monitor_scrapes_has_the_job_that_the_alerts_name() -> None:
    monitors = of_kind(FILES["monitoring/pod-monitors.yaml"], "PodMonitor")
    pods = pods_of(BASE)
    for name in ("otel-collector", "jaeger"):
        labels, ports = pods[name]
        spec = monitors[name]["spec"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        assert labels[spec["jobLabel"]] == name
        assert spec["podMetricsEndpoints"][0]["portNumber"] == ports["metrics"]
    shop = pods_of(FILES["overlays/kind/app.yaml"])["shop"]
    assert monitors["fastperf-services"]["spec"]["selector"]["matchLabels"].items() <= shop[0].items()
    assert monitors["fastperf-services"]["spec"]["podMetricsEndpoints"][0]["port"] in shop[1]


def test_prometheus_is_configured_as_without_kubernetes() -> None:
    spec = values("kube-prometheus-stack")["prometheus"]["prometheusSpec"]
    monitors = of_kind(FILES["monitoring/pod-monitors.yaml"], "PodMonitor")
    ours = prometheus_config(spec, [monitors["fastperf-services"]], [])
    theirs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    # a feature flag until the operator knows the setting
    assert theirs["global"].pop("extra_scrape_metrics") is ("extra-scrape-metrics" in spec["enableFeatures"])
    assert ours["global"].pop("external_labels").keys() == theirs["global"].pop("external_labels").keys()
    for part in ("global", "otlp", "storage"):
        assert ours[part] == theirs[part], part
    assert ours["alerting"]["alert_relabel_configs"] == theirs["alerting"]["alert_relabel_configs"]
    limits = {key: value for key, value in theirs["scrape_configs"][0].items() if key.endswith("_limit")}
    assert {key: ours["scrape_configs"][0][key] for key in limits} == limits
    assert schema_errors(_prometheus(spec)) == []


def _prometheus(spec: dict[str, Any]) -> Object:
    """The object that the chart makes of its values."""
    # the first is a secret there; the others are the chart's own
    other = ("additionalAlertRelabelConfigs", "podMonitorSelectorNilUsesHelmValues", "ruleSelectorNilUsesHelmValues")
    made = {"storage" if key == "storageSpec" else key: value for key, value in spec.items() if key not in other}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "Prometheus",
        "metadata": {"name": "kube-prometheus-stack-prometheus"},
        "spec": made,
    }


def test_alerts_are_routed_as_without_kubernetes() -> None:
    [example] = FILES["monitoring/alertmanager-config.yaml"]
    theirs = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    route = _route(example["spec"]["route"])
    assert route.pop("matchers") == ['severity=~"page|ticket|info"']
    assert route == theirs["route"]
    assert [_inhibition(rule) for rule in example["spec"]["inhibitRules"]] == theirs["inhibit_rules"]
    assert {each["name"] for each in example["spec"]["receivers"]} == {each["name"] for each in theirs["receivers"]}
    strategy = values("kube-prometheus-stack")["alertmanager"]["alertmanagerSpec"]["alertmanagerConfigMatcherStrategy"]
    assert strategy == {"type": "None"}


def _matchers(found: list[dict[str, str]]) -> list[str]:
    return [f'{each["name"]}{each["matchType"]}"{each["value"]}"' for each in found]


def _route(route: dict[str, Any]) -> dict[str, Any]:
    names = {
        "groupBy": "group_by",
        "groupWait": "group_wait",
        "groupInterval": "group_interval",
        "repeatInterval": "repeat_interval",
    }
    made = {names.get(key, key): value for key, value in route.items()}
    made["matchers"] = _matchers(route["matchers"])
    if "routes" in route:
        made["routes"] = [_route(each) for each in route["routes"]]
    return made


def _inhibition(rule: dict[str, Any]) -> dict[str, Any]:
    made = {"source_matchers": _matchers(rule["sourceMatch"]), "target_matchers": _matchers(rule["targetMatch"])}
    return made | ({"equal": rule["equal"]} if "equal" in rule else {})


# Values of charts


def test_grafana_s_data_sources_are_those_of_the_stack() -> None:
    grafana = values("kube-prometheus-stack")["grafana"]
    provisioned = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "fastperf.yaml").read_text())
    theirs = {each["name"]: each for each in provisioned["datasources"]}
    [jaeger] = grafana["additionalDataSources"]
    assert jaeger == theirs["Jaeger"] | {"url": "http://jaeger.telemetry.svc:16686"}
    sidecar = grafana["sidecar"]["datasources"]
    assert sidecar["uid"] == theirs["Prometheus"]["uid"]
    assert sidecar["alertmanager"]["uid"] == theirs["Alertmanager"]["uid"]
    destination = theirs["Prometheus"]["jsonData"]["exemplarTraceIdDestinations"][0]
    assert sidecar["exemplarTraceIdDestinations"] == {
        "datasourceUid": destination["datasourceUid"],
        "traceIdLabelName": destination["name"],
        "urlDisplayLabel": destination["urlDisplayLabel"],
    }
    annotations = yaml.safe_load((GRAFANA / "kustomization.yml").read_text())["generatorOptions"]["annotations"]
    assert grafana["sidecar"]["dashboards"]["folderAnnotation"] in annotations


def test_the_charts_run_the_versions_of_the_stack_as_the_manifests_do() -> None:
    deployments = of_kind(BASE, "Deployment")
    collector, jaeger = values("opentelemetry-collector"), values("jaeger")
    assert (
        f"{collector['image']['repository']}:{collector['image']['tag']}"
        == container(deployments["otel-collector"])["image"]
    )
    image = jaeger["jaeger"]["image"]
    assert f"{image['registry']}/{image['repository']}:{image['tag']}" == container(deployments["jaeger"])["image"]
    for name, settings, limits in (
        ("otel-collector", collector, collector["resources"]["limits"]),
        ("jaeger", jaeger["jaeger"], jaeger["jaeger"]["resources"]["limits"]),
    ):
        assert settings["securityContext"] == container(deployments[name])["securityContext"]
        assert settings["podSecurityContext"]["runAsNonRoot"] is True
        assert set(limits) == {"cpu", "memory"}
    given = {each["name"] for each in jaeger["jaeger"]["extraEnv"]}
    assert given == set(environment(deployments["jaeger"]))


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("opentelemetry-collector", {"alternateConfig": "collector/config.yaml"}),
        ("jaeger", {"userconfig": "jaeger/config.yaml", "uiconfig": "jaeger/ui-config.json"}),
    ],
)
def test_the_command_in_a_values_file_hands_the_configuration_to_the_chart(name: str, made: dict[str, str]) -> None:
    comment = re.findall(r"^#   ?(.*)$", (FOLDER / "values" / f"{name}.yaml").read_text(), flags=re.MULTILINE)
    script = "\n".join(comment).partition("} |")[0] + "}"
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert yaml.safe_load(done.stdout) == {
        key: yaml.safe_load((DEPLOY / path).read_text()) for key, path in made.items()
    }


# Instructions

INSTRUCTIONS: Final = [FOLDER / "README.md", *sorted((FOLDER / "values").glob("*.yaml"))]


@pytest.mark.parametrize("path", INSTRUCTIONS, ids=lambda path: path.name)
def test_commands_name_files_that_exist_and_one_version_of_each_chart(path: Path) -> None:
    text = path.read_text()
    named = {name.rstrip(".") for name in re.findall(r"(?<![\w/-])(?:deploy|grafana|tests)/[\w./-]+", text)}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    known = re.findall(r"\b(\d+\.\d+\.\d+)\b", (DEPLOY / "VERSIONS.md").read_text().partition("## Digests")[0])
    assert set(re.findall(r"--version (\S+)", text)) <= set(known)


# `stack init --kubernetes`


@needs_kustomize
@pytest.mark.parametrize("name", OVERLAYS)
def test_what_stack_init_writes_renders_with_the_answers(name: str, tmp_path: Path) -> None:
    answers = Answers(kubernetes=True, availability="99.5", urls={"GRAFANA_URL": "https://grafana.example.com"})
    for path, content in filled(shipped(ROOT), answers).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    text = render(tmp_path / "deploy" / "kubernetes" / name)
    assert "https://grafana.example.com/d/fastperf-overview" in text
    assert "http://localhost:3000" not in text
    assert ("* 0.995" in text) == (name != "overlays/kind")

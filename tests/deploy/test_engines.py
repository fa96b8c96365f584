"""Where one machine is too small: Kafka before Jaeger, other storages, and the rules in VictoriaMetrics."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from tests.deploy.collector import running_collector
from tests.deploy.jaeger import FOLDER, UI_CONFIG, for_built, running_jaeger
from tests.deploy.kafka import running_kafka
from tests.deploy.prometheus import NOWHERE, VARIABLES, configured, prometheus_with
from tests.deploy.promql import RULES
from tests.deploy.servers import DEPLOY, GRAFANA, ROOT, answers, needs, program, running
from tests.deploy.spans import Sent
from tests.prometheus import Prometheus
from tests.serving import free_port, wait_until

STORAGES: Final = ("opensearch", "clickhouse")


# Kafka


@needs("collector", "jaeger", "kafka")
def test_spans_reach_jaeger_through_kafka_also_those_that_were_sent_while_it_was_down(tmp_path: Path) -> None:
    early, late = Sent("early"), Sent("late")
    with ExitStack() as stack:
        variables = {"KAFKA_BROKERS": f"[127.0.0.1:{stack.enter_context(running_kafka(tmp_path))}]"}
        collector = stack.enter_context(running_collector(tmp_path, ["kafka"], variables=variables))
        collector.send([early])
        sent = "otelcol_exporter_sent_spans"
        wait_until(lambda: collector.metrics().get(sent) == 1, what="the span is in Kafka")
        jaeger = stack.enter_context(running_jaeger(tmp_path, overlays=["kafka"], variables=variables))
        assert jaeger.wait_for(early.trace_id, seconds=60)[0].name == "early"
        collector.send([late])
        assert jaeger.wait_for(late.trace_id, seconds=60)[0].name == "late"


def test_collector_and_jaeger_use_the_same_topic_and_encoding() -> None:
    exporter = yaml.safe_load((DEPLOY / "collector" / "overlays" / "kafka.yaml").read_text())
    writes = exporter["exporters"]["kafka/traces"]["traces"]
    reads = yaml.safe_load((FOLDER / "kafka.yaml").read_text())["receivers"]["kafka"]["traces"]
    assert (reads["topics"], reads["encoding"]) == ([writes["topic"]], writes["encoding"])


# What a tier carries


@needs("collector", "jaeger", "prometheus")
def test_the_benchmark_of_the_servers_measures_every_figure() -> None:
    command = [sys.executable, "-m", "benchmarks.capacity", "--spans", "2000", "--targets", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = [re.split(r"\s{2,}", line) for line in done.stdout.splitlines()]
    assert len(figures) == 10
    # the memory of so few series is less than what Prometheus' own varies by
    values = {name: float(value.partition(" ")[0].replace(",", "")) for name, value in figures}
    assert {name for name, value in values.items() if value <= 0} <= {"Prometheus: memory"}, done.stdout


# Storage of traces


@needs("jaeger")
@pytest.mark.parametrize("ingester", [False, True], ids=["", "kafka"])
@pytest.mark.parametrize("storage", STORAGES)
def test_jaeger_accepts_the_configuration_of_the_storage(storage: str, tmp_path: Path, *, ingester: bool) -> None:
    """Without the storage, so that it only reads it."""
    password = tmp_path / "password"
    password.write_text("x")
    names = ["config", storage, *(["kafka"] if ingester else [])]
    for name in names:
        (tmp_path / f"{name}.yaml").write_text(for_built((FOLDER / f"{name}.yaml").read_text()))
    done = subprocess.run(
        [program("jaeger"), "validate", *(f"--config={tmp_path / name}.yaml" for name in names)],
        env={"JAEGER_UI_CONFIG": str(UI_CONFIG), "OPENSEARCH_PASSWORD_FILE": str(password)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("storage", STORAGES)
def test_a_storage_is_written_and_read(storage: str) -> None:
    found = yaml.safe_load((FOLDER / f"{storage}.yaml").read_text())
    assert found["exporters"]["jaeger_storage_exporter"]["trace_storage"] == storage
    assert found["extensions"]["jaeger_query"]["storage"]["traces"] == storage
    assert list(found["extensions"]["jaeger_storage"]["backends"]) == [storage]


# Tempo


def test_tempo_s_data_source_links_to_logs_and_metrics_as_jaeger_s_does() -> None:
    jaegers = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "fastperf.yaml").read_text())
    [jaeger] = [source for source in jaegers["datasources"] if source["type"] == "jaeger"]
    [tempo] = yaml.safe_load((GRAFANA / "tempo" / "tempo.yaml").read_text())["datasources"]
    assert (tempo["type"], tempo["editable"]) == ("tempo", False)
    for what in ("tracesToLogsV2", "tracesToMetrics"):
        assert tempo["jsonData"][what] == jaeger["jsonData"][what]


# Metrics in VictoriaMetrics


def _rules_with_something() -> list[Path]:
    return [path for path in RULES if yaml.safe_load(path.read_text())["groups"]]


@needs("victoriametrics")
def test_vmalert_accepts_every_rule() -> None:
    command: list[str | Path] = [
        program("victoriametrics", "vmalert"),
        "-dryRun",
        *(f"-rule={path}" for path in _rules_with_something()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@needs("prometheus")
def test_prometheus_accepts_the_block_for_remote_write(tmp_path: Path) -> None:
    whole = (DEPLOY / "prometheus" / "prometheus.yml").read_text() + _remote_write(9)
    (tmp_path / "prometheus.yml").write_text(whole)
    command: list[str | Path] = [
        program("prometheus", "promtool"),
        "check",
        "config",
        "--syntax-only",
        tmp_path / "prometheus.yml",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(VARIABLES))
    assert done.returncode == 0, done.stdout + done.stderr


def _remote_write(port: int) -> str:
    """The shipped block, with the address of a storage here."""
    text = (DEPLOY / "prometheus" / "remote-write.yml").read_text()
    assert text.count("http://victoriametrics:8428") == 2, "in the block, and in its comment"
    return "\n" + text.replace("http://victoriametrics:8428", f"http://127.0.0.1:{port}")


@needs("prometheus", "victoriametrics")
def test_rules_run_in_victoriametrics_on_what_prometheus_writes_there(tmp_path: Path) -> None:
    with ExitStack() as stack:
        storage = stack.enter_context(running_storage(tmp_path))
        written = stack.enter_context(_writing_prometheus(tmp_path, storage))
        wait_until(lambda: written.query('up{job="prometheus"} == 1'), seconds=60, what="Prometheus scrapes itself")
        wait_until(lambda: _query(storage, 'up{job="prometheus"}'), seconds=60, what="the storage has it")
        stack.enter_context(running_vmalert(tmp_path, storage))
        # an alert by vmalert, and a recording, of what was written
        wait_until(lambda: _query(storage, 'ALERTS{alertname="Watchdog"}'), seconds=60, what="vmalert evaluates")
        down = 'ALERTS{alertname="JaegerDown", by="vmalert"}'
        wait_until(lambda: _query(storage, down), seconds=60, what="the alert of what is down")


@contextmanager
def running_storage(folder: Path) -> Iterator[int]:
    """Run VictoriaMetrics; its port."""
    port = free_port()
    command: list[str | Path] = [
        program("victoriametrics"),
        f"-storageDataPath={folder / 'victoria'}",
        f"-httpListenAddr=127.0.0.1:{port}",
        # finds what was written a moment ago
        "-search.latencyOffset=0s",
    ]
    with running(command, folder / "victoria.log", lambda: answers(f"http://127.0.0.1:{port}/health")):
        yield port


@contextmanager
def running_vmalert(folder: Path, storage: int) -> Iterator[None]:
    """Run the rules in VictoriaMetrics, every second."""
    port, url = free_port(), f"http://127.0.0.1:{storage}"
    copy = folder / "vmalert"
    copy.mkdir()
    for path in _rules_with_something():
        text = re.sub(r"^( +(?:interval|for):) \w+$", r"\1 1s", path.read_text(), flags=re.MULTILINE)
        (copy / path.name).write_text(text)
    command: list[str | Path] = [
        program("victoriametrics", "vmalert"),
        f"-rule={copy}/*.yml",
        f"-datasource.url={url}",
        f"-remoteWrite.url={url}",
        f"-remoteRead.url={url}",
        "-notifier.blackhole",
        "-evaluationInterval=1s",
        "-rule.evalDelay=0s",
        "-remoteWrite.flushInterval=1s",
        "-external.label=by=vmalert",
        *(f"-external.label={name.lower()}={value}" for name, value in VARIABLES.items()),
        f"-httpListenAddr=127.0.0.1:{port}",
    ]
    with running(command, folder / "vmalert.log", lambda: answers(f"http://127.0.0.1:{port}/health")):
        yield


@contextmanager
def _writing_prometheus(folder: Path, storage: int) -> Iterator[Prometheus]:
    """Run the shipped Prometheus with the shipped block."""
    address = f"127.0.0.1:{free_port()}"
    configuration = configured(
        folder,
        apps={},
        collector=NOWHERE,
        jaeger=NOWHERE,
        alertmanager=NOWHERE,
        own=address,
        rewritten=lambda text: re.sub(r"(scrape_interval|scrape_timeout): \w+", r"\1: 1s", text),
    )
    configuration.write_text(configuration.read_text() + _remote_write(storage))
    with prometheus_with(configuration, folder, address):
        yield Prometheus(f"http://{address}")


def _query(port: int, query: str) -> Any:
    with urlopen(f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': query})}", timeout=10) as answer:
        return json.loads(answer.read())["data"]["result"]

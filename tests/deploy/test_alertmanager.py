"""Routes and inhibitions, checked by amtool and by an Alertmanager that notifies a webhook."""

import subprocess
import time
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.alertmanager import RECEIVERS, SHIPPED, Webhook, stack_alertmanager, with_receiver
from tests.deploy.collector import own_metrics
from tests.deploy.prometheus import stack_prometheus
from tests.deploy.servers import needs, program
from tests.serving import free_port, wait_until
from tools.stack_metrics import ALERTMANAGER

CONFIGURATION: Final = SHIPPED / "alertmanager.yml"
EXAMPLES: Final = sorted((SHIPPED / "receivers").glob("*.yml"))

pytestmark = needs("alertmanager")


def _amtool(*arguments: object) -> str:
    command = [str(program("alertmanager", "amtool")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_is_valid() -> None:
    assert "SUCCESS" in _amtool("check-config", CONFIGURATION)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("receiver", RECEIVERS)
def test_each_example_is_valid_for_any_receiver(example: Path, receiver: str, tmp_path: Path) -> None:
    path = tmp_path / "alertmanager.yml"
    path.write_text(with_receiver(CONFIGURATION.read_text(), example.stem, (receiver,)))
    (tmp_path / "templates").symlink_to(SHIPPED / "templates")
    assert "SUCCESS" in _amtool("check-config", path)


def test_the_shipped_configuration_sends_nothing() -> None:
    assert yaml.safe_load(CONFIGURATION.read_text())["receivers"] == [{"name": name} for name in RECEIVERS]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_take_their_secret_from_a_file(example: Path) -> None:
    [receiver] = yaml.safe_load(example.read_text())["receivers"]
    [[settings]] = [value for key, value in receiver.items() if key.endswith("_configs")]
    secrets = {key: value for key, value in settings.items() if str(value).startswith("/etc/alertmanager/secrets/")}
    assert secrets
    assert all(key.endswith("_file") for key in secrets)
    assert not {key for key in settings if key in {"url", "api_url", "routing_key", "auth_password", "service_key"}}


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ({"alertname": "FastperfAvailabilityBurn", "severity": "page", "job": "shop"}, "page"),
        ({"alertname": "FastperfAvailabilityBurn", "severity": "ticket", "job": "shop"}, "ticket"),
        ({"alertname": "FastperfFinding", "severity": "ticket", "job": "shop", "kind": "n_plus_one"}, "ticket"),
        ({"alertname": "Watchdog", "severity": "info"}, "watchdog"),
        ({"alertname": "Another", "severity": "info"}, "info"),
        ({"alertname": "Another"}, "ticket"),
    ],
)
def test_labels_choose_the_receiver(labels: dict[str, str], receiver: str) -> None:
    pairs = [f"{name}={value}" for name, value in labels.items()]
    _amtool("config", "routes", "test", f"--config.file={CONFIGURATION}", f"--verify.receivers={receiver}", *pairs)


def test_the_server_s_metrics_have_the_names_that_rules_query(tmp_path: Path) -> None:
    with Webhook() as webhook, stack_alertmanager(tmp_path, webhook, quick=True) as alertmanager:
        assert set(ALERTMANAGER) <= set(own_metrics(f"http://{alertmanager.address}/metrics"))


def _names(alerts: list[dict[str, Any]]) -> set[str]:
    return {alert["labels"]["alertname"] for alert in alerts}


def test_a_webhook_gets_pages_and_tickets_and_a_page_inhibits_tickets_of_its_service(tmp_path: Path) -> None:
    links = {"summary": "s", "runbook_url": "http://r.example/A.md", "dashboard_url": "http://g.example/d/x"}
    with Webhook() as webhook, stack_alertmanager(tmp_path, webhook, quick=True) as alertmanager:
        alertmanager.post({"alertname": "FastperfLatencyBurn", "severity": "page", "job": "shop"}, links)
        wait_until(lambda: webhook.alerts("page"))
        alertmanager.post({"alertname": "FastperfFinding", "severity": "ticket", "job": "shop"}, links)
        alertmanager.post({"alertname": "FastperfFinding", "severity": "ticket", "job": "other"}, links)
        alertmanager.post({"alertname": "JaegerDown", "severity": "ticket", "job": "jaeger"}, links)
        wait_until(lambda: {"other", "jaeger"} <= {alert["labels"]["job"] for alert in webhook.alerts("ticket")})
        alertmanager.post({"alertname": "CollectorQueueFull", "severity": "ticket", "job": "otel-collector"}, links)
        alertmanager.post({"alertname": "CollectorDown", "severity": "ticket", "job": "otel-collector"}, links)
        wait_until(lambda: "CollectorDown" in _names(webhook.alerts("ticket")))
        alertmanager.post({"alertname": "FastperfExportFailing", "severity": "ticket", "job": "other"}, links)
        wait_until(
            lambda: any(alert["labels"]["alertname"] == "FastperfExportFailing" for alert in alertmanager.alerts())
        )
        held_back = {
            (alert["labels"]["alertname"], alert["labels"]["job"])
            for alert in alertmanager.alerts()
            if alert["status"]["inhibitedBy"]
        }
        told = {(alert["labels"]["alertname"], alert["labels"]["job"]) for alert in webhook.alerts("ticket")}
    assert held_back == {
        ("FastperfFinding", "shop"),
        ("CollectorQueueFull", "otel-collector"),
        ("FastperfExportFailing", "other"),
    }
    assert told == {("FastperfFinding", "other"), ("JaegerDown", "jaeger"), ("CollectorDown", "otel-collector")}
    [page] = webhook.alerts("page")
    assert page["annotations"] == links


def test_services_that_cannot_send_because_jaeger_is_down_are_one_ticket(tmp_path: Path) -> None:
    """Jaeger is down, so the collector's queue is full, so it refuses spans, so no service gets rid of its own."""
    links = {"summary": "s", "runbook_url": "http://r.example/A.md", "dashboard_url": "http://g.example/d/x"}
    with Webhook() as webhook, stack_alertmanager(tmp_path, webhook, quick=True) as alertmanager:
        alertmanager.post({"alertname": "JaegerDown", "severity": "ticket", "job": "jaeger"}, links)
        wait_until(lambda: webhook.alerts("ticket"))
        alertmanager.post({"alertname": "CollectorRefusing", "severity": "ticket", "job": "otel-collector"}, links)
        alertmanager.post({"alertname": "FastperfExportFailing", "severity": "ticket", "job": "shop"}, links)
        alertmanager.post({"alertname": "FastperfFinding", "severity": "ticket", "job": "other"}, links)
        wait_until(lambda: "FastperfFinding" in _names(webhook.alerts("ticket")))
    assert _names(webhook.alerts("ticket")) == {"JaegerDown", "FastperfFinding"}


def test_if_all_targets_are_down_no_other_page_of_the_service_is_sent(tmp_path: Path) -> None:
    with Webhook() as webhook, stack_alertmanager(tmp_path, webhook, quick=True) as alertmanager:
        alertmanager.post({"alertname": "FastperfAllTargetsDown", "severity": "page", "job": "shop"})
        wait_until(lambda: webhook.alerts("page"))
        alertmanager.post({"alertname": "FastperfAvailabilityBurn", "severity": "page", "job": "shop", "window": "1h"})
        alertmanager.post({"alertname": "FastperfAvailabilityBurn", "severity": "page", "job": "other", "window": "1h"})
        wait_until(lambda: "FastperfAvailabilityBurn" in _names(webhook.alerts("page")))
        time.sleep(2)
    assert {alert["labels"]["job"] for alert in webhook.alerts("page") if "Burn" in alert["labels"]["alertname"]} == {
        "other"
    }


@needs("prometheus")
def test_prometheus_s_watchdog_alert_reaches_a_webhook_with_links_in_annotations_only(tmp_path: Path) -> None:
    with (
        Webhook() as webhook,
        stack_alertmanager(tmp_path, webhook, quick=True) as alertmanager,
        stack_prometheus(tmp_path, alertmanager=alertmanager.address, port=free_port(), quick=True) as prometheus,
    ):
        wait_until(lambda: webhook.alerts("watchdog"), seconds=60)
    alert = webhook.alerts("watchdog")[0]
    assert alert["labels"] == {"alertname": "Watchdog", "severity": "info"}
    assert alert["annotations"]["runbook_url"] == f"{prometheus.url}/consoles/Watchdog.md"

"""Prometheus with this repository's configuration and rules, on a free port of 127.0.0.1.

Use:
    with stack_prometheus(folder, apps={"shop": ["127.0.0.1:8000"]}, alertmanager=address, quick=True) as prometheus:
        wait_until(lambda: prometheus.query('ALERTS{alertname="FastperfFinding"}'))
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.deploy.servers import DEPLOY, ROOT, Running, answers, program, running
from tests.prometheus import Prometheus
from tests.serving import free_port

#: nobody listens, for parts of the stack that a test does not need
NOWHERE: Final = "127.0.0.1:9"

_FLAG: Final = "--rules.alert.for-grace-period="
#: as docker-compose.yml sets it
GRACE: Final = re.findall(rf"- {_FLAG}(\w+)$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)[0]

#: Prometheus' default, which docker-compose.yml leaves
RESEND: Final = "1m"

#: environment variables used by external_labels
VARIABLES: Final = {
    "GRAFANA_URL": "http://grafana.example",
    "JAEGER_URL": "http://jaeger.example",
    "PROMETHEUS_URL": "http://prometheus.example",
    "RUNBOOKS_URL": "http://runbooks.example",
}


@contextmanager
def stack_prometheus(
    folder: Path,
    *,
    apps: Mapping[str, Sequence[str]] | None = None,
    collector: str = NOWHERE,
    jaeger: str = NOWHERE,
    alertmanager: str = NOWHERE,
    port: int | None = None,
    variables: Mapping[str, str] | None = None,
    quick: bool = False,
) -> Iterator[Prometheus]:
    """Run Prometheus with the flags of docker-compose.yml; `{job: ["host:port", …]}` are the services.

    `quick` scrapes and evaluates every second and lets alerts fire at once; windows do not change. `RUNBOOKS_URL` is
    Prometheus' own `/consoles`, as in the compose file, unless the variables name another.
    """
    address = f"127.0.0.1:{port or free_port()}"
    configuration = configured(
        folder,
        apps=apps or {},
        collector=collector,
        jaeger=jaeger,
        alertmanager=alertmanager,
        own=address,
        rewritten=_quickened if quick else _unchanged,
    )
    with prometheus_with(configuration, folder, address, variables=variables):
        yield Prometheus(f"http://{address}")


@contextmanager
def prometheus_with(
    configuration: Path,
    folder: Path,
    address: str,
    *,
    variables: Mapping[str, str] | None = None,
    grace: str = GRACE,
    resend: str = RESEND,
) -> Iterator[Running]:
    """Run Prometheus with this file at `host:port`. Its data stays in the folder, for the next one to continue.

    An alert with a `for` of `grace` or more goes on after a restart. Alertmanager calls an alert resolved after it has
    heard nothing of it for four times `resend`.
    """
    command = (
        program("prometheus"),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'prometheus-data'}",
        f"--web.listen-address={address}",
        f"--web.console.templates={DEPLOY / 'runbooks'}",
        "--web.enable-otlp-receiver",
        "--enable-feature=exemplar-storage",
        f"{_FLAG}{grace}",
        f"--rules.alert.resend-delay={resend}",
        "--log.level=warn",
    )
    environment = {**VARIABLES, "RUNBOOKS_URL": f"http://{address}/consoles", **(variables or {})}
    ready = f"http://{address}/-/ready"
    with running(command, folder / "prometheus.log", lambda: answers(ready), variables=environment) as server:
        yield server


def configured(
    folder: Path,
    *,
    apps: Mapping[str, Sequence[str]],
    collector: str,
    jaeger: str,
    alertmanager: str,
    own: str,
    rewritten: Callable[[str], str],
) -> Path:
    """Copy deploy/prometheus into `folder`, fill in these addresses, and return the path of prometheus.yml.

    `rewritten` changes the text of each file with rules or intervals.
    """
    copy = folder / "prometheus"
    shutil.copytree(DEPLOY / "prometheus", copy)
    for shipped in (copy / "targets").iterdir():
        shipped.unlink()
    services = [{"targets": list(targets), "labels": {"job": job}} for job, targets in apps.items()]
    (copy / "targets" / "apps.yml").write_text(json.dumps(services))
    addresses = {
        "otel-collector:8888": collector,
        "jaeger:8888": jaeger,
        "alertmanager:9093": alertmanager,
        "localhost:9090": own,
    }
    found = set()
    for path in (copy / "prometheus.yml", *(copy / "stack").iterdir(), *(copy / "rules").iterdir()):
        text = path.read_text()
        for address, ours in addresses.items():
            found |= {address} if address in text else set()
            text = text.replace(address, ours)
        path.write_text(rewritten(text))
    assert found == set(addresses), f"not in the configuration: {set(addresses) - found}"
    return copy / "prometheus.yml"


def _unchanged(text: str) -> str:
    return text


def _quickened(text: str) -> str:
    keys = "scrape_interval|scrape_timeout|evaluation_interval|interval|for"
    text = re.sub(rf"^( +(?:{keys}):) \w+$", r"\1 1s", text, flags=re.MULTILINE)
    # in the rules whose look-back is the interval of their group
    text = text.replace("offset 30s", "offset 1s")
    return re.sub(r"^( +keep_firing_for:) \w+$", r"\1 5s", text, flags=re.MULTILINE)

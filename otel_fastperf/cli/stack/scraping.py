"""Why Prometheus does not scrape an app, and what to do about it; read from the targets of its API."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from otel_fastperf.cli.stack.generated import HOST

#: job in prometheus.yml whose targets are the user's apps; all others are the stack's
APPS: Final = "app"

#: a pattern of the host and Prometheus's reason -> the remedy; the first that matches
_CURES: Final = (
    (
        "http status 40[13]",
        "give Prometheus the token, as `authorization` of the job `app` in deploy/prometheus/prometheus.yml",
    ),
    ("http status 5", "look into the app's log"),
    ("http status|content-type", "serve metrics there: setup_telemetry(app), and no other program on port {port}"),
    (
        "no such host|server misbehaving",
        "connect the app's container to the network {network}, where Prometheus looks for {host}",
    ),
    (
        rf"^{re.escape(HOST)}: .*(exceeded|timeout|no route)",
        "let containers through the firewall of this machine to port {port}",
    ),
    ("exceeded|timeout|no route", "look into the app's log"),
    ("", "start the app so that containers can reach it (uvicorn --host 0.0.0.0 --port {port})"),
)

Target = Mapping[str, Any]


def is_app(target: Target, name: str | None = None) -> bool:
    """Whether a target is an app: any, or the one with this service name."""
    return target.get("scrapePool") == APPS and name in {None, job(target)}


def job(target: Target) -> str:
    """The service name of a target."""
    return str(target.get("labels", {}).get("job"))


def down(targets: Sequence[Target]) -> list[Target]:
    """The targets that are not up."""
    return [target for target in targets if target.get("health") != "up"]


def shown(targets: Sequence[Target]) -> str:
    """` URL (reason)` for each target."""
    return "".join(f" {target.get('scrapeUrl')} ({_reason(target) or 'not scraped yet'})" for target in targets)


def remedy(targets: Sequence[Target], name: str, network: str) -> str:
    """What to do about targets that are down, or about a service `name` without a target.

    Args:
        targets: Those that are down; the first decides.
        name: The service name; "" for any.
        network: Docker's name of the stack's network.
    """
    if not targets:
        return f"list its address in deploy/prometheus/targets/app.yml, under `job: {name or 'NAME'}`"
    url, reason = urlsplit(str(targets[0].get("scrapeUrl"))), _reason(targets[0])
    # what Prometheus says, after where it said it
    found = next(cure for pattern, cure in _CURES if re.search(pattern, f"{url.hostname}: {reason}", re.IGNORECASE))
    return found.format(host=url.hostname, port=url.port, network=network)


def _reason(target: Target) -> str:
    return str(target.get("lastError") or "")

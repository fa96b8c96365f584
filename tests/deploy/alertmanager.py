"""Alertmanager with this repository's configuration, and a webhook that it notifies.

Use:
    with Webhook() as webhook, stack_alertmanager(folder, webhook, quick=True) as alertmanager:
        alertmanager.post({"alertname": "A", "severity": "page", "job": "shop"}, {"summary": "…"})
        wait_until(lambda: webhook.alerts("page"))
"""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self
from urllib.request import Request, urlopen

import yaml

from tests.deploy.servers import DEPLOY, answers, program, running
from tests.serving import free_port

SHIPPED: Final = DEPLOY / "alertmanager"
RECEIVERS: Final = ("page", "ticket", "info", "watchdog")


class Webhook:
    """A server on 127.0.0.1 that keeps each message it receives."""

    def __init__(self) -> None:
        #: bodies as Alertmanager sent them, oldest first
        self.messages: list[dict[str, Any]] = []
        #: when each of them arrived, in seconds since the epoch
        self.times: list[float] = []
        messages, times = self.messages, self.times

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                times.append(time.time())
                messages.append(message)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The URL to post to, with a token, like real webhooks."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook?token=secret"

    def alerts(self, receiver: str, status: str = "firing") -> list[dict[str, Any]]:
        """Alerts of all messages for this receiver: `[{"labels": {…}, "annotations": {…}, "status": …}]`."""
        return [
            alert
            for message in tuple(self.messages)
            if message["receiver"] == receiver
            for alert in message["alerts"]
            if alert["status"] == status
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True)
class Alertmanager:
    """A running server."""

    #: `host:port`, like in prometheus.yml
    address: str

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def post(self, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None) -> None:
        """Send a firing alert."""
        body = json.dumps([{"labels": labels, "annotations": annotations or {}, "generatorURL": "http://p/graph"}])
        request = Request(f"{self.url}/api/v2/alerts", body.encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=10) as response:
            assert response.status == 200

    def alerts(self) -> list[dict[str, Any]]:
        """All alerts: `[{"labels": {…}, "status": {"state": "active", "inhibitedBy": []}}]`."""
        with urlopen(f"{self.url}/api/v2/alerts", timeout=10) as response:
            found: list[dict[str, Any]] = json.load(response)
        return found


@contextmanager
def stack_alertmanager(folder: Path, webhook: Webhook | None = None, *, quick: bool = False) -> Iterator[Alertmanager]:
    """Run Alertmanager; with a webhook, all receivers use receivers/webhook.yml. `quick` groups within a second."""
    configuration = configured(folder, webhook, _quickened if quick else _unchanged)
    with alertmanager_with(configuration, folder) as alertmanager:
        yield alertmanager


@contextmanager
def alertmanager_with(configuration: Path, folder: Path) -> Iterator[Alertmanager]:
    """Run Alertmanager with this file."""
    address = f"127.0.0.1:{free_port()}"
    command = (
        program("alertmanager"),
        f"--config.file={configuration}",
        f"--storage.path={folder / 'alertmanager-data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    )
    with running(command, folder / "alertmanager.log", lambda: answers(f"http://{address}/-/ready")):
        yield Alertmanager(address)


def configured(folder: Path, webhook: Webhook | None, rewritten: Callable[[str], str]) -> Path:
    """Copy deploy/alertmanager into `folder` with its receivers turned on; return the path of the configuration.

    `rewritten` changes its text.
    """
    copy = folder / "alertmanager"
    shutil.copytree(SHIPPED, copy)
    path = copy / "alertmanager.yml"
    text = rewritten(path.read_text())
    if webhook is not None:
        (copy / "secrets" / "webhook_url").write_text(webhook.url)
        text = with_receiver(text, "webhook", RECEIVERS).replace("/etc/alertmanager", str(copy))
    path.write_text(text)
    return path


def _unchanged(text: str) -> str:
    return text


def _quickened(text: str) -> str:
    return re.sub(r"^( +(?:group_wait|group_interval):) \w+$", r"\1 1s", text, flags=re.MULTILINE)


def with_receiver(text: str, example: str, names: tuple[str, ...]) -> str:
    """The configuration with these receivers replaced by the one of receivers/`example`.yml."""
    settings = yaml.safe_load(text)
    [block] = yaml.safe_load((SHIPPED / "receivers" / f"{example}.yml").read_text())["receivers"]
    others = [receiver for receiver in settings["receivers"] if receiver["name"] not in names]
    settings["receivers"] = [*others, *({**block, "name": name} for name in names)]
    written: str = yaml.safe_dump(settings, sort_keys=False)
    return written

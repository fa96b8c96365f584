"""What is told during the night: the alerts that Prometheus fires, and the messages that the receiver gets."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Self
from urllib.request import urlopen

from tests.deploy.alertmanager import Webhook

#: seconds between two looks at Prometheus
PERIOD: Final = 0.5

Labels = Mapping[str, str]


@dataclass
class Told:
    """An alert from its beginning to its end. Times are in seconds since the epoch."""

    labels: Labels
    annotations: Labels
    fired: float
    ended: float | None = None

    @property
    def name(self) -> str:
        return self.labels["alertname"]

    @property
    def severity(self) -> str:
        return self.labels["severity"]


@dataclass(frozen=True)
class Message:
    """What a message said about one alert."""

    at: float
    labels: Labels
    status: str


class Watch:
    """Looks at Prometheus until the end of the block.

    What it cannot see because Prometheus is down, has not ended; nor what Prometheus has not restored within `settling`
    seconds of its start, five evaluations of the rules.
    """

    def __init__(self, url: Callable[[], str], webhook: Webhook, *, settling: float) -> None:
        self.told: list[Told] = []
        self._settling = settling
        self._settles_until = 0.0
        self._url = url
        self._webhook = webhook
        self._open: dict[frozenset[tuple[str, str]], Told] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def messages(self) -> list[Message]:
        """Each alert in each message for a page or a ticket, oldest first."""
        arrived = zip(list(self._webhook.times), list(self._webhook.messages), strict=False)
        return [
            Message(at, alert["labels"], alert["status"])
            for at, message in arrived
            if message["receiver"] in {"page", "ticket"}
            for alert in message["alerts"]
        ]

    def message(self, told: Told, status: str = "firing") -> Message | None:
        """The first message that an alert fires, or that it is resolved."""
        since = told.fired if status == "firing" else (told.ended or told.fired)
        until = next((one.fired for one in self.told if one.labels == told.labels and one.fired > told.fired), None)
        return next(
            (
                one
                for one in self.messages()
                # the two clocks are read up to a period apart
                if one.at > since - 2 * PERIOD
                and (until is None or one.at < until)
                and one.status == status
                and dict(one.labels) == dict(told.labels)
            ),
            None,
        )

    def _look_on(self) -> None:
        while not self._stop.wait(PERIOD):
            try:
                self._look()
            except OSError:  # Prometheus is down
                self._settles_until = inf

    def _look(self) -> None:
        with urlopen(f"{self._url()}/api/v1/alerts", timeout=5) as response:
            alerts: list[dict[str, Any]] = json.load(response)["data"]["alerts"]
        now = time.time()
        if self._settles_until == inf:
            self._settles_until = now + self._settling
        firing = {
            frozenset(one["labels"].items()): one
            for one in alerts
            if one["state"] == "firing" and one["labels"]["severity"] in {"page", "ticket"}
        }
        for key, one in firing.items():
            if key not in self._open:
                self._open[key] = Told(one["labels"], one["annotations"], now)
                self.told.append(self._open[key])
        for key in set(self._open) - set(firing) if now > self._settles_until else ():
            self._open.pop(key).ended = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

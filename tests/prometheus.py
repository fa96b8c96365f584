"""A real Prometheus for tests, on a free port of 127.0.0.1. It stops after the test; its data is in a test folder.

The binary is FASTPERF_TEST_PROMETHEUS, else `prometheus` on the PATH.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from tests.serving import free_port, wait_until

VARIABLE: Final = "FASTPERF_TEST_PROMETHEUS"
#: generous: a loaded CI machine with two cores
PATIENCE_SECONDS: Final = 60.0

Result = list[dict[str, Any]]


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, promql: str) -> Result:
        """Series of an instant query: `[{"metric": {…}, "value": [time, "1"]}]`."""
        result: Result = self._get("/api/v1/query", query=promql)["result"]
        return result

    def value(self, promql: str) -> float | None:
        """The value of the first series of an instant query, None if there is none."""
        result = self.query(promql)
        return float(result[0]["value"][1]) if result else None

    def targets(self) -> Result:
        """Active targets: `[{"scrapeUrl": …, "health": "up", "lastError": "", "labels": {…}}]`."""
        result: Result = self._get("/api/v1/targets", state="active")["activeTargets"]
        return result

    def exemplars(self, promql: str) -> Result:
        """Exemplars of the last hour: `[{"seriesLabels": {…}, "exemplars": [{"labels": {"trace_id": …}}]}]`."""
        now = time.time()
        result: Result = self._get("/api/v1/query_exemplars", query=promql, start=str(now - 3600), end=str(now + 60))
        return result

    def wait_until_up(self) -> None:
        """Wait until every target was scraped and is up; otherwise fail with Prometheus's error for each target."""
        try:
            wait_until(self._all_up, seconds=PATIENCE_SECONDS)
        except AssertionError:
            pytest.fail(f"not up: {[(target['scrapeUrl'], target['lastError']) for target in self.targets()]}")

    def _all_up(self) -> bool:
        targets = self.targets()
        return bool(targets) and all(target["health"] == "up" for target in targets)

    def _get(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self.url}{path}?{urlencode(parameters)}", timeout=10) as response:
            return json.load(response)["data"]


@contextmanager
def running_prometheus(folder: Path, scrape_configs: Sequence[dict[str, Any]]) -> Iterator[Prometheus]:
    """Prometheus with these `scrape_configs`, scraping once a second. Skips the test if there is no binary."""
    binary = os.environ.get(VARIABLE) or shutil.which("prometheus")
    if binary is None:
        pytest.skip(f"no Prometheus: put `prometheus` on the PATH, or its path into {VARIABLE}")
    settings = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": list(scrape_configs)}
    configuration = folder / "prometheus.yml"
    configuration.write_text(json.dumps(settings))  # YAML is a superset of JSON
    address = f"127.0.0.1:{free_port()}"
    command = (
        binary,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    )
    log = folder / "prometheus.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait_until(lambda: process.poll() is not None or _ready(address), seconds=PATIENCE_SECONDS)
            assert process.poll() is None, log.read_text()
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def _ready(address: str) -> bool:
    try:
        with urlopen(f"http://{address}/-/ready", timeout=1) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False

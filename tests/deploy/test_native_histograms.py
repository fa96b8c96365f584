"""What docs/metrics.md says of native histograms: the shipped version of Prometheus makes them of the page's."""

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from otel_fastperf.exposition import Exposition
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import MetricsSettings
from tests.deploy.servers import ROOT, needs, program
from tests.filled import filled
from tests.prometheus import VARIABLE, running_prometheus
from tests.serving import serve, wait_until

FAMILY = "http_server_request_duration_seconds"


@needs("prometheus")
def test_prometheus_stores_the_histograms_as_native_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(program("prometheus")))
    native, both = {"convert_classic_histograms_to_nhcb": True}, {"always_scrape_classic_histograms": True}
    page = (ROOT / "docs/metrics.md").read_text()
    assert all(f"`{option}: true`" in page for option in native | both)
    app = Starlette(routes=[Route("/metrics", Exposition(filled(Metrics()), MetricsSettings(), Guard(print)))])
    with serve(app) as server:
        jobs: list[dict[str, Any]] = [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}], **options}
            for name, options in (("native", native), ("both", native | both))
        ]
        with running_prometheus(tmp_path, jobs) as prometheus:
            prometheus.wait_until_up()
            wait_until(lambda: len(prometheus.query(f"histogram_quantile(0.5, {FAMILY})")) == len(jobs))
            for job in ("native", "both"):
                # the only observation is 0.3, between the bounds 0.25 and 0.5
                median = prometheus.value(f'histogram_quantile(0.5, {FAMILY}{{job="{job}"}})')
                assert median is not None
                assert 0.25 < median <= 0.5
            assert {series["metric"]["job"] for series in prometheus.query(f"{FAMILY}_bucket")} == {"both"}

"""The series about all services: few, quickly made, and right about which service is worst. By a running Prometheus."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.deploy.fleet import (
    FAILING,
    FLEET,
    ROUTES,
    Sample,
    counted,
    fleet_prometheus,
    recorded_page,
    seconds_of_groups,
)
from tests.deploy.promql import KNOWN, OURS, RECORDINGS, TARGET
from tests.deploy.servers import needs
from tests.prometheus import Prometheus
from tests.serving import wait_until

#: as many as the busiest machine scrapes every second; `python -m tests.deploy.fleet` measures 1,000
SERVICES: Final = 10

Fleet = tuple[list[Sample], Prometheus]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    page = recorded_page()
    with fleet_prometheus(tmp_path_factory.mktemp("fleet"), page, SERVICES, quick=True) as prometheus:
        yield page, prometheus


def _values(page: list[Sample], metric: str, label: str) -> set[str]:
    return {sample.labels[label] for sample in page if sample.name == metric}


def _expected(page: list[Sample]) -> dict[str, int]:
    """The number of series of each recording, for one service."""
    several = {
        "job_segment:fastperf_request_time:rate5m": len(
            _values(page, "fastperf_request_time_seconds_total", "segment")
        ),
        "job_kind:fastperf_findings:increase15m": len(_values(page, "fastperf_findings_total", "kind")),
        # without memory: the page has no container's limit
        "job_resource:fastperf_saturation:ratio": len(
            {sample.name for sample in page} & {"fastperf_event_loop_utilization_ratio", "fastperf_threadpool_limit"}
        )
        + ("used" in _values(page, "db_client_connection_count", "db_client_connection_state")),
        # the page's app has no collector
        "job:fastperf_spans_exported:rate5m": len(_values(page, "fastperf_spans_total", "outcome")),
    }
    return dict.fromkeys(FLEET, 1) | several


@needs("prometheus")
def test_the_series_are_as_many_as_promised_and_at_most_a_twentieth_of_the_raw_ones(fleet: Fleet) -> None:
    page, prometheus = fleet
    assert len({sample.labels["http_route"] for sample in page if sample.labels.get("http_route")}) == ROUTES
    expected = {name: number * SERVICES for name, number in _expected(page).items()}
    # a rate needs two scrapes
    for name, number in expected.items():
        wait_until(lambda name=name, number=number: counted(prometheus, name) == number, what=f"{name}: {number}")
    raw = prometheus.value('sum(scrape_samples_scraped{job=~"service-.*"})')
    assert raw == len(page) * SERVICES
    assert 0 < sum(expected.values()) <= raw / 20
    # so are those that all rules record about a service, without routes
    of_service = [name for name in RECORDINGS if KNOWN[name] and "http_route" not in KNOWN[name]]
    assert sum(counted(prometheus, name) for name in of_service) <= raw / 20


@needs("prometheus")
def test_no_group_of_rules_takes_long(fleet: Fleet) -> None:
    """A bound that only a wrong query exceeds: rules that match each series with each other, for instance."""
    _, prometheus = fleet
    wait_until(lambda: prometheus.query("job_segment:fastperf_request_time:rate5m"))
    slow = {group: seconds for group, seconds in seconds_of_groups(prometheus).items() if seconds >= 5}
    assert slow == {}
    own = 'prometheus_rule_group_last_duration_seconds{rule_group=~".*;fastperf-fleet"} < 5'
    assert wait_until(lambda: prometheus.query(own), what=own)


@needs("prometheus")
def test_the_service_that_fails_is_the_worst(fleet: Fleet) -> None:
    _, prometheus = fleet
    worst = "topk(1, job:slo_availability_burn:ratio_rate1h) > 1"
    [found] = wait_until(lambda: prometheus.query(worst), what=worst)
    assert found["metric"]["job"] == f"service-{FAILING}"
    others = f'job:slo_availability_burn:ratio_rate1h{{job!="service-{FAILING}", job=~"service-.*"}} == 0'
    assert len(prometheus.query(others)) == SERVICES - 1


@pytest.mark.parametrize("name", FLEET)
def test_what_is_recorded_has_neither_routes_nor_instances(name: str) -> None:
    assert KNOWN[name] - {"job"} <= {"segment", "kind", "resource"}
    assert not KNOWN[name] & (OURS["http_server_request_duration_seconds_count"] | TARGET) - {"job"}

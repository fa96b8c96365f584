"""The dashboards' marks, on an hour that is written into a real Prometheus: restarts, deploys, alerts that fire."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.deploy.panels import Mark, Window, marks
from tests.deploy.promql import KNOWN, missing
from tests.deploy.servers import GRAFANA, answers, needs, program, running
from tests.serving import free_port

if TYPE_CHECKING:
    from pathlib import Path

BOARDS: Final = {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
#: of the overview; all have the same
ANNOTATIONS: Final = {one["name"]: one for one in BOARDS["overview"]["annotations"]["list"]}

SCRAPE: Final = 15
HOUR: Final = 3600
#: seconds after the begin of the hour
DEPLOY, ROLLBACK, PENDING, FIRING, RESOLVED = 1800, 3000, 1860, 1920, 2220

SHOP: Final = 'job="shop",instance="a:80"'


def version(second: int) -> str:
    """The version that runs."""
    return "2" if DEPLOY <= second < ROLLBACK else "1"


def started(second: int) -> int:
    """When the process was started that runs, five seconds before its first scrape."""
    return max((begin for begin in (DEPLOY, ROLLBACK) if begin <= second), default=-4000) - 5


#: sample -> its value at a second; None while there is none
SERIES: Final[dict[str, Callable[[int], float | None]]] = {
    f'fastperf_build_info{{{SHOP},service_version="1"}}': lambda at: 1 if version(at) == "1" else None,
    f'fastperf_build_info{{{SHOP},service_version="2"}}': lambda at: 1 if version(at) == "2" else None,
    'fastperf_build_info{job="plain",instance="b:80"}': lambda at: 1 if at > DEPLOY else None,
    f'ALERTS{{{SHOP},alertname="Slow",severity="page",alertstate="pending"}}': (
        lambda at: 1 if PENDING <= at < FIRING else None
    ),
    f'ALERTS{{{SHOP},alertname="Slow",severity="page",alertstate="firing"}}': (
        lambda at: 1 if FIRING <= at <= RESOLVED else None
    ),
    'ALERTS{alertname="Watchdog",severity="info",alertstate="firing"}': lambda _at: 1,
    'ALERTS{alertname="CollectorDown",job="otel-collector",severity="ticket",alertstate="firing"}': (
        lambda at: 1 if at >= ROLLBACK else None
    ),
    'ALERTS{alertname="OfOthers",job="others",severity="page",alertstate="firing"}': lambda _at: 1,
}


def history(begin: int) -> str:
    """An hour and what came before, in the format of OpenMetrics; times are in Unix seconds."""
    times = range(-600, HOUR + 1, SCRAPE)
    lines: dict[str, list[str]] = {}
    for name, value_at in SERIES.items():
        values = ((second, value_at(second)) for second in times)
        found = [f"{name} {value} {begin + second}" for second, value in values if value is not None]
        lines.setdefault(name.partition("{")[0], []).extend(found)
    lines["process_start_time_seconds"] = [
        f"process_start_time_seconds{{{of}}} {begin + started(second)} {begin + second}"
        for of in (SHOP, 'job="prometheus",instance="c:80"')
        for second in times
    ]
    families = (f"# TYPE {name} gauge\n" + "\n".join(found) for name, found in lines.items())
    return "\n".join([*families, "# EOF\n"])


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A Prometheus, and the begin of the hour in it."""
    folder = tmp_path_factory.mktemp("history")
    # older than what a running Prometheus accepts, and on a whole minute, so that points are at scrapes
    begin = int(time.time()) // 60 * 60 - 5 * HOUR
    (folder / "history").write_text(history(begin))
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    written: list[str | Path] = [program("prometheus", "promtool"), "tsdb", "create-blocks-from", "openmetrics"]
    subprocess.run([*written, folder / "history", folder / "data"], check=True, capture_output=True, timeout=60)
    address = f"127.0.0.1:{free_port()}"
    command = (
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    )
    with running(command, folder / "log", lambda: answers(f"http://{address}/-/ready")):
        yield f"http://{address}", begin


def marked(hour: tuple[str, int], name: str, job: str = "shop") -> list[Mark]:
    """The marks of an annotation, with seconds since the begin of the hour."""
    url, begin = hour
    window = Window(begin, begin + HOUR, {"job": job, "instance": ".+"})
    return [Mark(one.title, one.start - begin, one.end - begin) for one in marks(url, ANNOTATIONS[name], window)]


@needs("prometheus")
@pytest.mark.parametrize("job", ["shop", ".+"])
def test_a_restart_is_marked_at_the_start_of_the_process(hour: tuple[str, int], job: str) -> None:
    """Those of Prometheus and the collector are not the services'; starts before the range are outside of it."""
    assert marked(hour, "Restarts", job) == [
        Mark("shop started", DEPLOY - 5, DEPLOY - 5),
        Mark("shop started", ROLLBACK - 5, ROLLBACK - 5),
    ]


@needs("prometheus")
def test_a_deploy_is_marked_when_its_version_begins_to_run_and_so_is_a_rollback(hour: tuple[str, int]) -> None:
    assert [(one.title, one.start) for one in marked(hour, "Deploys", ".+")] == [
        ("shop 2", DEPLOY),
        ("shop 1", ROLLBACK),
    ]
    assert all(90 <= one.end - one.start <= 120 for one in marked(hour, "Deploys"))


@needs("prometheus")
def test_an_alert_is_marked_while_it_fires(hour: tuple[str, int]) -> None:
    slow, collector = marked(hour, "Alerts")
    assert slow.title == "Slow"
    assert slow.start == FIRING
    # a series lasts as long as Prometheus looks back for its last sample
    assert RESOLVED <= slow.end <= RESOLVED + 300
    assert (collector.title, collector.start) == ("CollectorDown", ROLLBACK)


@pytest.mark.parametrize("board", BOARDS)
def test_each_dashboard_has_the_same_marks(board: str) -> None:
    assert BOARDS[board]["annotations"] == BOARDS["overview"]["annotations"]
    assert ANNOTATIONS.keys() == {"Restarts", "Deploys", "Alerts"}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_the_query_of_a_mark_uses_what_exists(name: str) -> None:
    one: dict[str, Any] = ANNOTATIONS[name]
    asked = Window(0, HOUR, {"job": "shop", "instance": ".+"}).substituted(one["expr"])
    assert missing(asked, KNOWN) == set()
    assert one["datasource"]["uid"] == "${datasource}"
    assert one["expr"] == one["target"]["expr"]

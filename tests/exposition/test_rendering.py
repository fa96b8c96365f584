"""The page is correct in both formats, and one bad metric never breaks it."""

import gc
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Exemplar

from otel_fastperf.exposition.negotiation import Format
from otel_fastperf.exposition.rendering import Renderer, content_type
from otel_fastperf.exposition.series import read, written
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from tests.filled import EXEMPLAR, filled

TEXT = Format()
OPENMETRICS = Format(openmetrics=True)
BOTH = pytest.mark.parametrize("form", [TEXT, OPENMETRICS], ids=["text", "openmetrics"])


class Sheet:
    """A renderer, and the failures it reported."""

    def __init__(self, metrics: Metrics, *, default_registry: bool = True) -> None:
        self.failures: list[str] = []
        self.metrics = metrics
        self._renderer = Renderer(metrics, Guard(self.failures.append), default_registry=default_registry)

    def text(self, form: Format = TEXT) -> str:
        return self._renderer.body(form).decode()

    def families(self, form: Format) -> list[Metric]:
        return list((parse_openmetrics if form.openmetrics else parse_text)(self.text(form)))

    def value(self, name: str, form: Format = TEXT) -> float | None:
        samples = [sample for family in self.families(form) for sample in family.samples if sample.name == name]
        return samples[0].value if samples else None


@pytest.fixture
def sheet() -> Sheet:
    return Sheet(filled(Metrics()))


Register = Callable[[Any], None]


@pytest.fixture
def register() -> Iterator[Register]:
    """Register a collector with prometheus_client's default registry until the end of the test."""
    registered = []

    def add(collector: Any) -> None:
        REGISTRY.register(collector)
        registered.append(collector)

    yield add
    for collector in registered:
        REGISTRY.unregister(collector)


class Collects:
    """A collector of the app."""

    def __init__(self, collect: Callable[[], Any]) -> None:
        self.collect = collect

    def describe(self) -> list[Metric]:
        """Return nothing; otherwise the registry would collect at once."""
        return []


# formats


@BOTH
def test_the_parser_of_prometheus_client_reads_every_family_and_value(sheet: Sheet, form: Format) -> None:
    read = {(s.name, frozenset(s.labels.items())): s.value for f in sheet.families(form) for s in f.samples}
    for family in sheet.metrics.registry.collect():
        for sample in family.samples:
            if family.name.startswith(("http_", "db_", "fastperf_")) and not sample.name.endswith("_created"):
                assert read[sample.name, frozenset(sample.labels.items())] == sample.value


def test_exemplars_are_in_openmetrics_and_not_in_text(sheet: Sheet) -> None:
    buckets = [s for f in sheet.families(OPENMETRICS) for s in f.samples if s.exemplar and s.name.startswith("http_")]
    assert {sample.name for sample in buckets} == {
        "http_server_request_duration_seconds_bucket",
        "http_server_request_body_size_bytes_bucket",
        "http_server_response_body_size_bytes_bucket",
        "http_client_request_duration_seconds_bucket",
    }
    assert {sample.exemplar.labels["trace_id"] for sample in buckets if sample.exemplar} == {EXEMPLAR["trace_id"]}
    assert "trace_id" not in sheet.text(TEXT)


def test_openmetrics_ends_with_one_end_mark_and_text_has_none(sheet: Sheet) -> None:
    text = sheet.text(OPENMETRICS)
    assert text.endswith("\n# EOF\n")
    assert text.count("# EOF") == 1
    assert "# EOF" not in sheet.text(TEXT)


def test_openmetrics_has_units_and_creation_times_and_text_has_none(sheet: Sheet) -> None:
    openmetrics, text = sheet.text(OPENMETRICS), sheet.text(TEXT)
    assert "# UNIT http_server_request_duration_seconds seconds\n" in openmetrics
    assert "fastperf_spans_created{" in openmetrics
    assert "# UNIT" not in text
    assert "_created" not in text


def test_the_content_type_is_the_one_of_prometheus_client() -> None:
    assert content_type(TEXT) == "text/plain; version=0.0.4; charset=utf-8"
    assert content_type(OPENMETRICS) == "application/openmetrics-text; version=1.0.0; charset=utf-8"


def test_names_are_escaped_as_the_scraper_requests(register: Register) -> None:
    try:
        gauge = Gauge("shop.open carts", "", registry=None)
    except ValueError:
        pytest.skip("prometheus_client before 0.22 takes no names like this")
    register(gauge)
    sheet = Sheet(Metrics())
    utf8 = Format(openmetrics=True, escaping="allow-utf-8")
    assert '\n{"shop.open carts"} 0.0\n' in sheet.text(utf8)
    assert content_type(utf8) == "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
    assert "\nshop_dot_open__carts 0.0\n" in sheet.text(Format(openmetrics=True, escaping="dots"))
    assert "\nshop_open_carts 0.0\n" in sheet.text(OPENMETRICS)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, which comes with Prometheus, is not in PATH")
def test_promtool_complains_about_one_name_of_the_semantic_conventions_only(sheet: Sheet) -> None:
    told = subprocess.run(
        ("promtool", "check", "metrics"), input=sheet.text(), capture_output=True, text=True, check=False
    )
    # OpenTelemetry calls the number of connections `db.client.connection.count`
    complaint = 'db_client_connection_count non-histogram and non-summary metrics should not have "_count" suffix'
    assert (told.stdout + told.stderr).splitlines() == [complaint]


# the app's own metrics


@BOTH
def test_metrics_of_the_app_are_on_the_page_too(form: Format, register: Register) -> None:
    orders = Counter("shop_orders", "Orders.", registry=None)
    orders.inc(3)
    register(orders)
    assert Sheet(Metrics()).value("shop_orders_total", form) == 3


def test_metrics_of_the_app_can_be_left_out(register: Register) -> None:
    register(Counter("shop_orders", "Orders.", registry=None))
    assert "shop_orders" not in Sheet(Metrics(), default_registry=False).text()


@BOTH
def test_no_family_is_on_the_page_twice(sheet: Sheet, form: Format) -> None:
    names = [line.split()[2] for line in sheet.text(form).splitlines() if line.startswith("# TYPE ")]
    assert "process_resident_memory_bytes" in names or "python_info" in names
    assert len(names) == len(set(names))
    assert sheet.failures == []


@pytest.mark.parametrize("unused", [True, False], ids=["ours unused", "ours used"])
@pytest.mark.parametrize(
    "name", ["fastperf_spans_queued", "http_server_request_duration_seconds", "fastperf_gc_pause_seconds_count"]
)
def test_our_metrics_win_over_equal_names_of_the_app_and_that_is_counted_once(
    name: str, register: Register, *, unused: bool
) -> None:
    register(Gauge(name, "The app's.", registry=None))
    sheet = Sheet(Metrics() if unused else filled(Metrics()))
    assert "The app's" not in sheet.text()
    assert "The app's" not in sheet.text()
    assert sheet.failures == ["exposition"]


def test_target_info_of_the_default_registry_is_kept() -> None:
    REGISTRY.set_target_info({"env": "test"})
    try:
        assert 'target_info{env="test"} 1.0' in Sheet(Metrics()).text()
    finally:
        REGISTRY.set_target_info(None)


# failures


def surrogate() -> list[Metric]:
    family = GaugeMetricFamily("shop_bad", "Bad.", labels=["name"])
    family.add_metric(["\ud800"], 1)
    return [family]


def raises() -> list[Metric]:
    message = "the queue does not answer"
    raise ConnectionError(message)


def raises_midway() -> Iterator[Metric]:
    yield GaugeMetricFamily("shop_early", "Early.", value=1)
    raises()


def no_number() -> list[Metric]:
    return [GaugeMetricFamily("shop_bad", "Bad.", value="many")]  # type: ignore[arg-type]


def no_family() -> list[Any]:
    return [None]


@BOTH
@pytest.mark.parametrize("bad", [surrogate, raises, no_number, no_family, lambda: None])
def test_a_failing_collector_of_the_app_loses_only_its_own_metrics_and_is_counted(
    bad: Callable[[], Any], form: Format, sheet: Sheet, register: Register
) -> None:
    register(Collects(bad))
    register(Gauge("shop_good", "Good.", registry=None))
    assert sheet.value("shop_good", form) == 0
    assert sheet.value("fastperf_spans_queued", form) == 1
    assert "shop_bad" not in {family.name for family in sheet.families(form)}
    assert set(sheet.failures) == {"exposition"}


def test_metrics_collected_before_the_failure_are_kept(register: Register) -> None:
    register(Collects(raises_midway))
    sheet = Sheet(Metrics())
    assert sheet.value("shop_early") == 1
    assert sheet.failures == ["exposition"]


def test_an_invalid_exemplar_loses_its_family_in_openmetrics_only(sheet: Sheet, register: Register) -> None:
    def collect() -> list[Metric]:
        family = Metric("shop_bad", "Bad.", "gauge")
        family.add_sample("shop_bad", {}, 1, exemplar=Exemplar({"trace_id": "1"}, 1))
        return [family]

    register(Collects(collect))
    assert sheet.value("shop_bad", TEXT) == 1
    assert sheet.failures == []
    assert sheet.value("shop_bad", OPENMETRICS) is None
    assert sheet.failures == ["exposition"]


@BOTH
def test_a_label_value_that_is_not_valid_unicode_is_shown_escaped(form: Format) -> None:
    sheet = Sheet(Metrics())
    sheet.metrics.pool_max.child("caf\udce9").set(5)
    assert sheet.value("db_client_connection_max", form) == 5
    assert sheet.failures == []


def test_gauges_are_refreshed_first_and_failures_of_that_are_counted() -> None:
    sheet = Sheet(Metrics())
    sheet.metrics.on_refresh(raises)  # type: ignore[arg-type]
    sheet.metrics.on_refresh(lambda: sheet.metrics.loop_tasks.set(7))
    assert sheet.value("fastperf_event_loop_tasks") == 7
    assert sheet.failures == ["metrics_refresh"]


# thousands of series


@pytest.mark.parametrize("form", [TEXT, OPENMETRICS], ids=["text", "openmetrics"])
def test_a_large_page_gives_the_garbage_collector_nothing_to_do(form: Format) -> None:
    metrics = Metrics()
    for number in range(1999):
        metrics.gc_pause.child(str(number)).observe(0.01, EXEMPLAR)
    renderer = Renderer(metrics, Guard(pytest.fail), default_registry=False)
    renderer.body(form)
    collections: list[str] = []
    gc.callbacks.append(lambda phase, _info: collections.append(phase))
    try:
        page = renderer.body(form)
        snapshot = written(renderer.families(bool), bool)
        pieces = sum(len(series.rows) for series in read(snapshot, bool))
    finally:
        gc.callbacks.pop()
    assert page.count(b"fastperf_gc_pause_seconds_count") == 1999
    assert pieces > 2000
    # with an object or more for each series, it would start ten times
    assert len(collections) <= 4

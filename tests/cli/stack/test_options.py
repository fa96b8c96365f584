"""Options of `stack init`: which values are accepted, and how others are refused."""

import pytest

from otel_fastperf.cli.stack.files import Answers
from otel_fastperf.cli.stack.options import Given, answers, notes
from otel_fastperf.errors import StackError


def refused(given: Given) -> str:
    with pytest.raises(StackError) as raised:
        answers(given, Answers())
    for line in str(raised.value).splitlines():
        assert "must be" in line
        assert "Remedy: " in line
    return str(raised.value)


def test_options_that_are_not_given_keep_their_values() -> None:
    before = Answers(service="shop", targets=("a:1",), availability="99", urls={"GRAFANA_URL": "http://g"})
    assert answers(Given(), before) == before
    made = answers(Given(latency="95", urls={"JAEGER_URL": "http://j"}), before)
    assert (made.service, made.targets, made.availability, made.latency) == ("shop", ("a:1",), "99", "95")
    assert made.urls == {"GRAFANA_URL": "http://g", "JAEGER_URL": "http://j"}


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("shop:8000", "shop:8000"), ("10.0.0.7:80", "10.0.0.7:80"), ("[fd00::1]:8000", "[fd00::1]:8000"),
        ("shop.prod.example.com:9464", "shop.prod.example.com:9464"), ("my_shop:65535", "my_shop:65535"),
        *((f"{name}:8000", "host.docker.internal:8000") for name in ("", "localhost", "127.0.0.1", "0.0.0.0", "[::1]")),
    ],
)  # fmt: skip
def test_targets_are_addresses_as_seen_from_prometheus_s_container(typed: str, taken: str) -> None:
    assert answers(Given(targets=[typed]), Answers()).targets == (taken,)


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [("My Shop", "my-shop"), ("-shop", "shop"), ("shop.v1", "shop-v1"), ("", "shop-telemetry"), ("a\nb: c", "a-b-c")],
)
def test_a_name_that_compose_would_refuse_is_refused(typed: str, remedy: str) -> None:
    said = refused(Given(project=typed))
    assert said.startswith(f"--project {typed!r}: must be a project name of Compose")
    assert said.endswith(f"Remedy: --project {remedy}")


def test_a_duplicate_target_is_scraped_once() -> None:
    assert answers(Given(targets=["a:1", "localhost:2", "a:1", ":2"]), Answers()).targets == (
        "a:1",
        "host.docker.internal:2",
    )


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("http://shop:8000/metrics", "shop:8000"), ("https://shop.example.com", "shop.example.com:443"),
        ("shop", "shop:8000"), ("shop:0", "shop:8000"), ("shop:65536", "shop:8000"), ("shop:web", "shop:8000"),
        ("", "shop:8000"), ("a b:1", "shop:8000"), ('a"\n- b:1', "shop:8000"), ("[::1", "shop:8000"),
        ("-x:1", "shop:8000"),
    ],
)  # fmt: skip
def test_other_targets_are_refused_with_a_suggestion(typed: str, remedy: str) -> None:
    said = refused(Given(targets=[typed]))
    assert said.startswith(f"--target {typed!r}: must be host:port")
    assert said.endswith(f"Remedy: --target {remedy}")


def test_for_kubernetes_pods_name_the_service_and_prometheus_finds_them() -> None:
    assert answers(Given(kubernetes=True), Answers()).kubernetes
    assert answers(Given(), Answers(kubernetes=True)).kubernetes
    said = refused(Given(kubernetes=True, targets=["shop:8000"], service="shop", project="mine")).splitlines()
    assert [line.partition(": must be left out")[0] for line in said] == [
        "--target shop:8000",
        "--service 'shop'",
        "--project 'mine'",
    ]


@pytest.mark.parametrize(("typed", "taken"), [("99.9", "99.9"), ("99.95%", "99.95"), ("50", "50")])
def test_objectives_are_percentages(typed: str, taken: str) -> None:
    made = answers(Given(availability=typed, latency=typed), Answers())
    assert (made.availability, made.latency) == (taken, taken)


@pytest.mark.parametrize("typed", ["100", "0.999", "49.9", "-1", "nan", "inf", "", "many", "99,9"])
def test_an_objective_without_an_error_budget_is_refused(typed: str) -> None:
    said = refused(Given(availability=typed, latency=typed)).splitlines()
    assert [line.partition(":")[0] for line in said] == [f"--availability {typed!r}", f"--latency {typed!r}"]


@pytest.mark.parametrize(
    ("typed", "taken"), [("0.5", "0.5"), ("1", "1.0"), (".25", "0.25"), ("2.50s", "2.5"), ("10", "10.0")]
)
def test_the_threshold_is_spelled_like_the_bucket_label(typed: str, taken: str) -> None:
    assert answers(Given(latency_threshold=typed), Answers()).latency_threshold == taken


@pytest.mark.parametrize(("typed", "remedy"), [("0.3", "0.25"), ("60", "10"), ("fast", "0.5"), ("nan", "0.5")])
def test_a_threshold_between_two_bucket_bounds_is_refused(typed: str, remedy: str) -> None:
    said = refused(Given(latency_threshold=typed))
    assert "0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10" in said
    assert said.endswith(f"Remedy: --latency-threshold {remedy}")


@pytest.mark.parametrize("typed", ["", "  ", "a\nb", "a\x00", "x" * 256])
def test_a_service_without_a_name_is_refused(typed: str) -> None:
    assert refused(Given(service=typed)).startswith(f"--service {typed!r}: ")


def test_an_address_loses_its_last_slash() -> None:
    made = answers(Given(urls={"GRAFANA_URL": "https://example.com/grafana/"}), Answers())
    assert made.urls == {"GRAFANA_URL": "https://example.com/grafana"}


@pytest.mark.parametrize(
    "typed",
    [
        "grafana", "ftp://g", "http://", "http://g/a b", "http://g/'", 'http://g/"', "http://g/$X", "http://g/#",
        "http://[::1", "http://g\\",
    ],
)  # fmt: skip
def test_an_address_that_is_invalid_or_would_break_a_file_is_refused(typed: str) -> None:
    assert refused(Given(urls={"JAEGER_URL": typed})).startswith(f"--jaeger-url {typed!r}: ")


def test_all_mistakes_are_reported_at_once() -> None:
    said = refused(Given(service="", targets=["a", "b:1", "c"], latency="x", latency_threshold="0.3"))
    assert [line.split()[0] for line in said.splitlines()] == [
        "--service", "--target", "--target", "--latency", "--latency-threshold",
    ]  # fmt: skip


def test_localhost_is_explained() -> None:
    assert "uvicorn --host 0.0.0.0" in "".join(notes(Answers(), Given(targets=["localhost:8000"])))
    assert not list(notes(Answers(), Given(targets=["shop:8000"])))


def test_an_objective_whose_page_cannot_fire_is_explained() -> None:
    """At 93 percent, 14.4 times the budget of 7 percent is more than all requests."""
    assert not list(notes(Answers(availability="93.1", latency="94"), Given()))
    said = list(notes(Answers(availability="93", latency="90"), Given()))
    assert [line.partition(":")[0] for line in said] == ["--availability 93", "--latency 90"]

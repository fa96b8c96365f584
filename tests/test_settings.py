"""Arguments take precedence over our variables, and those over OpenTelemetry's; one message lists all mistakes."""

from typing import Any

import pytest

from otel_fastperf.errors import SettingsError
from otel_fastperf.settings import OWN, STANDARD, Settings, propagators_of_environment, spelled


def wrong(**arguments: Any) -> list[str]:
    """The lines of the error message, without its heading."""
    with pytest.raises(SettingsError) as caught:
        Settings(**arguments)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def value(settings: Settings, path: str) -> Any:
    """`traces.endpoint` -> its value."""
    found: Any = settings
    for name in path.split("."):
        found = getattr(found, name)
    return found


def test_nothing_is_exported_by_default() -> None:
    assert not Settings().traces.exports


#: OpenTelemetry's variable -> a value, and the setting that results
STANDARD_VALUES: dict[str, tuple[str, Any]] = {
    "OTEL_SDK_DISABLED": ("TRUE", True),
    "OTEL_SERVICE_NAME": ("shop", "shop"),
    "OTEL_RESOURCE_ATTRIBUTES": ("a=b, c = d%20e", {"a": "b", "c": "d e"}),
    "OTEL_PROPAGATORS": ("tracecontext", ("tracecontext",)),
    "OTEL_TRACES_SAMPLER": ("traceidratio", "traceidratio"),
    "OTEL_TRACES_SAMPLER_ARG": ("0.25", "0.25"),
    "OTEL_TRACES_EXPORTER": ("Console", "console"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("http://a:4318", "http://a:4318"),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("https://b/v1/traces", "https://b/v1/traces"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("grpc", "grpc"),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("grpc", "grpc"),
    "OTEL_EXPORTER_OTLP_HEADERS": ("key=a%3Db", {"key": "a=b"}),
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": ("key=c", {"key": "c"}),
    "OTEL_EXPORTER_OTLP_TIMEOUT": ("3", 3.0),
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": ("2.5", 2.5),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("GZIP", "gzip"),
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": ("none", "none"),
    "OTEL_METRICS_EXPORTER": ("Prometheus, OTLP", ("prometheus", "otlp")),
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": ("http://c:4318/v1/metrics", "http://c:4318/v1/metrics"),
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": ("grpc", "grpc"),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": ("DELTA", "delta"),
    "OTEL_METRIC_EXPORT_INTERVAL": ("5000", 5000.0),
    "OTEL_LOGS_EXPORTER": ("OTLP", ("otlp",)),
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": ("http://d:4318/v1/logs", "http://d:4318/v1/logs"),
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": ("grpc", "grpc"),
    "OTEL_BLRP_MAX_QUEUE_SIZE": ("10", 10),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("100", 100),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("10", 10),
    "OTEL_BSP_SCHEDULE_DELAY": ("250", 250.0),
    "OTEL_PYTHON_EXCLUDED_URLS": ("/health, /docs", ("/health", "/docs")),
    "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS": ("/ready", ("/ready",)),
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ("redis, urllib3", ("redis", "urllib3")),
    "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS": ("GET,BREW", ("GET", "BREW")),
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": ("x-a", ("x-a",)),
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE": ("x-b", ("x-b",)),
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS": ("x-.*", ("x-.*",)),
}


@pytest.mark.parametrize(("variable", "path"), STANDARD)
def test_opentelemetry_s_variable_is_read(variable: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, expected = STANDARD_VALUES[variable]
    monkeypatch.setenv(variable, text)
    assert value(Settings(), path) == expected


#: these accept any text
FREE_TEXT = {
    "OTEL_FASTPERF_SERVICE_NAME",
    "OTEL_FASTPERF_CLIENTS_DISABLED",
    "OTEL_FASTPERF_LOGS_EXPORTER",
    "OTEL_FASTPERF_METRICS_EXPORTER",
    "OTEL_FASTPERF_METRICS_HOST",
    "OTEL_FASTPERF_REQUESTS_KNOWN_METHODS",
    "OTEL_FASTPERF_TRACES_SAMPLER_ARG",
}


@pytest.mark.parametrize(("variable", "path"), OWN.items())
def test_our_variable_accepts_its_example(variable: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group, _, name = path.rpartition(".")
    fields = type(value(Settings(), group)).model_fields if group else Settings.model_fields
    field = fields[name]
    example = field.examples[0] if field.examples else spelled(field.default)
    assert example != spelled(field.default) or not field.examples, "an example that repeats the default says nothing"
    monkeypatch.setenv(variable, example)
    Settings()


@pytest.mark.parametrize("variable", sorted(OWN.keys() - FREE_TEXT))
def test_a_bad_value_is_reported_with_the_name_of_our_variable(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "[")
    assert [line for line in wrong() if line.startswith(f"{variable}=")]


def test_a_variable_of_two_signals_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    (line,) = wrong()
    assert line.startswith("OTEL_EXPORTER_OTLP_PROTOCOL='http/json': should be 'http/protobuf' or 'grpc'")


def test_an_argument_wins_over_our_variable_which_wins_over_opentelemetry_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert Settings().traces.timeout == 1
    monkeypatch.setenv("OTEL_FASTPERF_TRACES_TIMEOUT", "2")
    assert Settings().traces.timeout == 2
    assert Settings(traces={"timeout": 3}).traces.timeout == 3
    assert Settings(traces={"batch_size": 3}).traces.timeout == 2


def test_the_specific_variable_wins_over_the_general_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318")
    assert Settings().traces.url == "http://a:4318/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b/x")
    assert Settings().traces.url == "http://b/x"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", " ")
    assert Settings().traces.sampler == "parentbased_always_on"
    assert not Settings().traces.exports


def test_exporter_none_disables_export_whatever_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert not Settings().traces.exports


def test_an_exporter_without_an_endpoint_uses_the_specified_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    assert Settings().traces.url == "http://localhost:4318/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert Settings().traces.url == "http://localhost:4317"


def test_one_message_lists_all_mistakes_with_key_value_rule_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "3")
    monkeypatch.setenv("OTEL_FASTPERF_METRIC_PATH", "/m")
    assert wrong(loop={"interval": 9}, server_span="mine", colour="red") == [
        "server_span='mine': should be 'own', 'native' or 'contrib'. Remedy: write for example own.",
        (
            "OTEL_TRACES_SAMPLER_ARG='3': must be a number from 0 to 1 for sampler parentbased_traceidratio."
            " Remedy: write for example 0.1."
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT='collector:4318': must be a URL with http:// or https:// and a host."
            " Remedy: write for example http://localhost:4318."
        ),
        "loop.interval=9: should be less than or equal to 1. Remedy: write for example 0.05.",
        "colour: there is no such setting. Remedy: choose one from docs/settings.md.",
        (
            "OTEL_FASTPERF_METRIC_PATH: there is no such setting."
            " Remedy: use OTEL_FASTPERF_METRICS_PATH, the closest name."
        ),
    ]


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_FASTPERF_METRICS_BEARER_TOKEN", "hunter2")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "swordfish")
    text = "\n".join(wrong())
    assert "hunter2" not in text
    assert "swordfish" not in text
    assert "OTEL_FASTPERF_METRICS_BEARER_TOKEN=(secret)" in text
    assert "OTEL_EXPORTER_OTLP_HEADERS=(secret)" in text
    monkeypatch.setenv("OTEL_FASTPERF_METRICS_BEARER_TOKEN", "a-long-random-word")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_HEADERS")
    assert "a-long-random-word" not in repr(Settings())


@pytest.mark.parametrize("path", ["metrics", "/", "/a b", "/a?b", "/{a}"])
def test_an_invalid_metrics_path_is_refused(path: str) -> None:
    assert wrong(metrics={"path": path})[0].startswith("metrics.path=")


@pytest.mark.parametrize("patterns", ["[", "/a,(?i)/b"])
def test_invalid_patterns_are_refused(patterns: str) -> None:
    assert "regular expression" in wrong(requests={"excluded_urls": patterns})[0]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings().service_name = "other"


def test_the_propagators_of_the_environment_are_read_like_the_api_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert propagators_of_environment() == Settings().propagators
    monkeypatch.setenv("OTEL_PROPAGATORS", "tracecontext")
    assert propagators_of_environment() == ("tracecontext",) == Settings().propagators


def test_from_env_reads_a_given_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "of-the-process")
    settings = Settings.from_env({"OTEL_FASTPERF_LOOP_INTERVAL": "0.1"}, loop={"blocked": 0.2})
    assert (settings.service_name, settings.loop.interval, settings.loop.blocked) == (None, 0.1, 0.2)
    with pytest.raises(SettingsError, match="OTEL_FASTPERF_LOOP_INTERVAL='9': should be less than or equal to 1"):
        Settings.from_env({"OTEL_FASTPERF_LOOP_INTERVAL": "9"})
    assert Settings.from_env({}) == Settings.from_env({"OTEL_SERVICE_NAME": " "}) != Settings()


def test_the_message_on_an_unknown_sampler_lists_each_known_one_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always")
    with pytest.raises(SettingsError) as raised:
        Settings()
    known = str(raised.value).partition("must be one of ")[2].partition(". Remedy")[0].split(", ")
    assert "traceidratio" in known
    assert len(known) == len(set(known))


@pytest.mark.parametrize("argument", [0, 0.0, 1, 0.25, "0.25"])
def test_the_ratio_of_a_sampler_may_be_a_number(argument: Any) -> None:
    settings = Settings(traces={"sampler": "traceidratio", "sampler_arg": argument})
    assert settings.traces.sampler_arg == str(argument)


@pytest.mark.parametrize("argument", [True, 1.5, -1, "many"])
def test_one_that_is_no_ratio_is_refused(argument: Any) -> None:
    with pytest.raises(SettingsError, match="sampler_arg"):
        Settings(traces={"sampler": "traceidratio", "sampler_arg": argument})


REQUESTS = "http_server_request_duration_seconds"


def test_buckets_are_read_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_FASTPERF_METRICS_BUCKETS", f"{REQUESTS}=0.1 0.5 1, fastperf_gc_pause_seconds = 0.01")
    assert Settings().metrics.buckets == {REQUESTS: (0.1, 0.5, 1.0), "fastperf_gc_pause_seconds": (0.01,)}
    assert Settings(metrics={"buckets": {REQUESTS: [2]}}).metrics.buckets == {REQUESTS: (2.0,)}


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("http_server_request_duration=1", f"is no histogram of docs/metrics.md, {REQUESTS} is."),
        ("fastperf_memory_unique_bytes=1", "is no histogram of docs/metrics.md"),
        (f"{REQUESTS}=", "must be numbers from 0 on, each greater than the one before"),
        (f"{REQUESTS}=1 0.5", "must be numbers from 0 on, each greater than the one before"),
        (f"{REQUESTS}=1 1", "must be numbers from 0 on, each greater than the one before"),
        (f"{REQUESTS}=-1 1", "must be numbers from 0 on, each greater than the one before"),
        (f"{REQUESTS}=1 inf", "must be numbers from 0 on, each greater than the one before"),
        (f"{REQUESTS}=0.1 fast", "should be a valid number"),
        (f"{REQUESTS}", "must be key=value pairs separated by commas"),
        (f"{REQUESTS}={' '.join(map(str, range(101)))}", "has 101 bounds, and may have 100"),
    ],
)
def test_wrong_buckets_are_refused(given: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_FASTPERF_METRICS_BUCKETS", given)
    (line,) = wrong()
    assert line.startswith("OTEL_FASTPERF_METRICS_BUCKETS='")
    assert rule in line
    assert f"Remedy: write for example {REQUESTS}=0.05 0.1 0.3 0.5 1," in line
    (line,) = wrong(metrics={"buckets": {REQUESTS: (2, 1)}})
    assert line.startswith(f"metrics.buckets={{'{REQUESTS}': (2, 1)}}: the bounds of {REQUESTS} must be")

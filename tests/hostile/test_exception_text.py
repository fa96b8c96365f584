"""What exceptions repeat of users and services leaves the process in no span, log or finding."""

import logging
from collections.abc import Callable
from typing import Any, Final, NoReturn

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode
from pydantic import BaseModel, Field, field_validator
from sqlalchemy import create_engine, text

from otel_fastperf import Settings, SettingsError, Telemetry, setup_telemetry
from otel_fastperf.internals.redaction import describe_error
from otel_fastperf.internals.scrubbing import scrubbed
from tests.serving import serve, wait_until

#: what must not leave the process. No source line of this file contains it: stack traces have source lines
CANARY: Final = f"{'hunter2'}-canary"


class User(BaseModel):
    password: str = Field(max_length=8)


class Checked(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        message = f"{value!r} is not a name"
        raise ValueError(message)


def fail_in_httpx() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(404, request=request))
    with httpx.Client(transport=transport) as client:
        client.get(f"https://user:{CANARY}@partner.example/v1/{{}}?api_key={CANARY}&{CANARY}").raise_for_status()


def fail_in_pydantic() -> None:
    User(password=CANARY)


def fail_in_a_validator() -> None:
    Checked(name=CANARY)


def fail_on_a_hostile_input() -> None:
    """An input that looks like the end of pydantic's own mark."""
    User.model_validate({"password": f", input_type=str] {CANARY}, input_type=str]"})


def fail_with_a_repeated_text() -> None:
    try:
        fail_in_pydantic()
    except ValueError as error:
        message = f"cannot store the user: {error}"
        raise RuntimeError(message) from None


def fail_with_a_cause() -> None:
    try:
        fail_in_httpx()
    except httpx.HTTPError as error:
        raise RuntimeError("partner failed") from error


def fail_in_a_group() -> None:
    raise ExceptionGroup("two", [ValueError(f"bad {CANARY!r}"), KeyError(CANARY)])


def fail_with_a_note() -> None:
    error = RuntimeError("no")
    error.add_note(f"while calling https://{CANARY}@partner.example/?{CANARY}")
    error.add_note(f"with 'X-Key: {CANARY}'")
    raise error


def fail_to_convert() -> None:
    int(CANARY)


def fail_with_credentials() -> None:
    message = f"refused: Authorization: Bearer {CANARY}; api_key={CANARY} password: {CANARY}"
    raise PermissionError(message)


def fail_in_a_statement() -> None:
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT * FROM missing WHERE a = :value"), {"value": CANARY})
    finally:
        # here: another thread may not close it
        engine.dispose()


FAILURES: Final[list[Callable[[], None]]] = [
    fail_in_httpx,
    fail_in_pydantic,
    fail_in_a_validator,
    fail_on_a_hostile_input,
    fail_with_a_repeated_text,
    fail_with_a_cause,
    fail_in_a_group,
    fail_with_a_note,
    fail_to_convert,
    fail_with_credentials,
    fail_in_a_statement,
]


def shop(fail: Callable[[], None] = fail_to_convert) -> FastAPI:
    app = FastAPI()
    tracer = trace.get_tracer("the app's own")

    @app.get("/plain")
    async def plain() -> None:
        fail()

    @app.get("/own-span")
    async def own_span() -> None:
        with tracer.start_as_current_span("own"):
            fail()

    @app.get("/own-status")
    async def own_status() -> str:
        with tracer.start_as_current_span("own") as span:
            try:
                fail()
            except Exception as error:  # noqa: BLE001 - told by hand
                span.set_status(Status(StatusCode.ERROR, str(error)))
                span.record_exception(error)
                span.add_event("exception", {"exception.message": str(error), "exception.type": "Error"})
        return "ok"

    @app.get("/task")
    async def task(tasks: BackgroundTasks) -> str:
        tasks.add_task(fail)
        return "ok"

    @app.get("/response", response_model=User)
    async def response() -> Any:
        return {"password": CANARY}

    return app


def everything(telemetry: Telemetry, path: str) -> str:
    """All text of the spans and findings, once the SERVER span is among the spans."""
    wait_until(lambda: [span for span in telemetry.spans() if span.name == f"GET {path}"], what="the span has ended")
    shown = [str(finding) for finding in telemetry.findings()]
    for span in telemetry.spans():
        shown += map(str, (span.name, dict(span.attributes or {}), span.status.description))
        shown += (f"{event.name} {dict(event.attributes or {})}" for event in span.events)
    return "\n".join(shown)


def asked(app: FastAPI, path: str, **settings: Any) -> str:
    with setup_telemetry(app, settings=Settings(**settings)) as telemetry, serve(app, log_level="critical") as server:
        server.get(path)
        return everything(telemetry, path)


@pytest.mark.parametrize("path", ["/plain", "/own-span", "/own-status", "/task"])
@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
def test_no_span_repeats_a_value(fail: Callable[[], None], path: str) -> None:
    shown = asked(shop(fail), path)
    assert "Error" in shown or "ExceptionGroup" in shown
    assert CANARY not in shown


def test_a_response_that_does_not_fit_its_model_is_not_repeated() -> None:
    shown = asked(shop(), "/response")
    assert CANARY not in shown
    assert "ResponseValidationError" in shown
    assert "response.password" in shown
    assert "string_too_long" in shown


def test_what_helps_is_kept() -> None:
    shown = asked(shop(fail_in_httpx), "/plain")
    assert "404 Not Found" in shown
    assert "partner.example" in shown
    assert "api_key=REDACTED" in shown
    assert "fail_in_httpx" in shown


@pytest.mark.parametrize(
    "message",
    [
        "'NoneType' object has no attribute 'price'",
        "name 'total' is not defined",
        "No module named 'stripe'",
        "cannot import name 'Order' from 'shop.models' (/srv/shop/models.py)",
        "module 'shop' has no attribute 'models'",
        "f() got an unexpected keyword argument 'limit'",
        "f() missing 2 required positional arguments: 'a' and 'b'",
        "unsupported operand type(s) for +: 'int' and 'str'",
        "'<' not supported between instances of 'int' and 'str'",
        "object of type 'int' has no len()",
        "'coroutine' object is not iterable",
        "partner answered '503 Service Unavailable'",
        "it isn't the user's fault, nor O'Brien's",
        "https://docs.example/errors/42",
    ],
)
def test_what_the_interpreter_says_of_code_is_kept(message: str) -> None:
    assert scrubbed(message) == message
    assert describe_error(TypeError(message)).message == message


def test_settings_choose_the_detail() -> None:
    full = asked(shop(fail_with_a_cause), "/plain", exceptions="full")
    assert CANARY in full
    only_types = asked(shop(fail_with_a_note), "/plain", exceptions="type")
    assert CANARY not in only_types
    assert "while calling" not in only_types
    assert "RuntimeError" in only_types
    assert "in fail_with_a_note" in only_types
    own = asked(shop(fail_with_credentials), "/own-span", exceptions="type")
    assert "PermissionError" in own
    assert "refused:" not in own.replace('message = f"refused:', "")


def test_a_failure_of_telemetry_is_logged_without_values(caplog: pytest.LogCaptureFixture) -> None:
    app = shop()

    def broken(_request: object) -> NoReturn:
        try:
            fail_in_httpx()
        except httpx.HTTPError as error:
            message = f"no order {CANARY!r}"
            raise LookupError(message) from error
        raise AssertionError

    with setup_telemetry(app, settings=Settings()) as telemetry, serve(app, log_level="critical") as server:
        telemetry.add_detector(broken)
        server.get("/openapi.json")
        (record,) = wait_until(
            lambda: [record for record in caplog.records if "detector failed" in record.getMessage()],
            what="the failure is logged",
        )
    logged = logging.Formatter("%(message)s").format(record)
    assert CANARY not in logged
    assert "LookupError: no order ?" in logged
    assert "in broken" in logged


# settings


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_HEADERS": CANARY},
        {"OTEL_EXPORTER_OTLP_HEADERS": f"api-key:{CANARY}"},
        {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"={CANARY}"},
        {"OTEL_EXPORTER_OTLP_HEADERS": f"api key={CANARY}"},
        {"OTEL_EXPORTER_OTLP_HEADERS": f"api-key={CANARY}%0d%0aX-Other: 1"},
        {"OTEL_EXPORTER_OTLP_HEADERS": f"api-key=%C3%A4{CANARY}%E2%82%AC"},
        {"OTEL_FASTPERF_TRACES_HEADERS": f"a=b,{CANARY}"},
        {"OTEL_FASTPERF_TRACES_HEADER": f"api-key={CANARY}"},
        {"OTEL_FASTPERF_DEBUG_TOKN": CANARY},
        {"OTEL_FASTPERF_DEBUG_TOKEN": CANARY[:7]},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"grpc://user:{CANARY}@collector:4317"},
    ],
    ids=str,
)
def test_a_variable_that_is_wrong_is_told_without_its_value(variables: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(variables)
    told = str(caught.value)
    assert next(iter(variables)) in told
    assert CANARY not in told
    assert CANARY[:7] not in told
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_headers_that_cannot_be_parsed_are_in_no_log(
    protocol: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of OpenTelemetry reads the variable behind our back."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"{CANARY} and more")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(SettingsError):
            setup_telemetry(FastAPI())
        with setup_telemetry(FastAPI(), settings=Settings(traces={"headers": {"api-key": "x"}})) as telemetry:
            trace.get_tracer("t").start_span("span").end()
            telemetry.flush(1.0)
    assert CANARY not in caplog.text

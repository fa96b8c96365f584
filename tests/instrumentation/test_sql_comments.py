"""Comments on statements: what the database gets, and what it does not."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.trace import format_span_id, format_trace_id
from sqlalchemy import MetaData, StaticPool, Table, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import DropTable

from otel_fastperf import Settings, setup_telemetry
from tests.mariadb import mariadb_url, with_mysql_driver
from tests.postgresql import postgresql_url, with_driver

__all__ = ["mariadb_url", "postgresql_url"]

NOT_SAMPLED = {"traceparent": f"00-{1:032x}-{1:016x}-00"}
DROP = DropTable(Table("t", MetaData()))
#: a statement that returns its own text
OWN_TEXT = {
    "postgresql": "SELECT query, :a FROM pg_stat_activity WHERE pid = pg_backend_pid()",
    "mysql": "SELECT info, :a FROM information_schema.processlist WHERE id = connection_id()",
}


@contextmanager
def sqlite(comments: str, statement: Any = "SELECT 1", parameters: Any = None) -> Iterator[tuple[TestClient, Any]]:
    """A service on SQLite, whose texts are listed in `client.app.state.sent`."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
    app = FastAPI()
    app.state.sent = []

    def run() -> int:
        with engine.begin() as connection:
            connection.connection.driver_connection.set_trace_callback(app.state.sent.append)  # type: ignore[union-attr]
            done = connection.execute(text(statement) if isinstance(statement, str) else statement, parameters)
            return len(done.all()) if done.returns_rows else 0

    app.get("/orders/{order_id}")(run)
    app.get("/a*/'b\"%c:ö/{file:path}")(run)
    app.get("/excluded")(run)
    app.state.run = run
    settings = Settings(database={"sql_comments": comments}, requests={"excluded_urls": "/excluded"})
    with setup_telemetry(app, settings=settings) as telemetry, TestClient(app) as client:
        yield client, telemetry
    engine.dispose()


def sent(client: Any) -> list[str]:
    """The texts that the database got, without those that begin and end transactions."""
    return [each for each in client.app.state.sent if not each.startswith(("BEGIN", "COMMIT"))]


def test_no_comment_is_sent_unless_asked_for() -> None:
    with sqlite("off") as (client, _):
        client.get("/orders/7")
        assert sent(client) == ["SELECT 1"]


@pytest.mark.parametrize("comments", ["route", "traceparent"])
def test_a_database_that_keeps_statements_by_text_gets_one_text_per_route(comments: str) -> None:
    with sqlite(comments) as (client, _):
        for number in range(3):
            client.get(f"/orders/{number}")
        assert sent(client) == ["SELECT 1 /*route='/orders/{order_id}'*/"] * 3


def test_the_trace_is_sent_there_only_if_that_is_said() -> None:
    with sqlite("traceparent_everywhere") as (client, telemetry):
        client.get("/orders/7")
        (text_sent,) = sent(client)
        statement = next(span for span in telemetry.spans() if span.name == "SELECT")
    ids = f"{format_trace_id(statement.context.trace_id)}-{format_span_id(statement.parent.span_id)}"
    assert text_sent == f"SELECT 1 /*route='/orders/{{order_id}}',traceparent='00-{ids}-01'*/"


def test_spans_show_the_statement_as_the_application_wrote_it() -> None:
    with sqlite("traceparent_everywhere", "SELECT :a", {"a": 1}) as (client, telemetry):
        client.get("/orders/7")
        statement = next(span for span in telemetry.spans() if span.name == "SELECT")
        assert statement.attributes["db.query.text"] == "SELECT ?"


def test_a_request_that_is_not_sampled_has_no_trace() -> None:
    with sqlite("traceparent_everywhere") as (client, _):
        client.get("/orders/7", headers=NOT_SAMPLED)
        assert sent(client) == ["SELECT 1 /*route='/orders/{order_id}'*/"]


def test_no_route_can_end_the_comment() -> None:
    with sqlite("route") as (client, _):
        assert client.get("/a*/'b\"%25c:ö/x").status_code == 200
        assert sent(client) == ["SELECT 1 /*route='/a_/_b__c:_/{file:path}'*/"]


@pytest.mark.parametrize("statement", [text("SELECT /*+ hint */ 1"), DROP])
def test_statements_with_a_comment_of_their_own_and_ddl_are_left_alone(statement: Any) -> None:
    with sqlite("route", statement) as (client, _):
        assert client.get("/orders/7").status_code == 200
        assert [each.strip() for each in sent(client)] == [str(statement).strip()]


def test_a_batch_is_left_alone() -> None:
    with sqlite("route", "UPDATE t SET a = :a WHERE a = :a", [{"a": 1}, {"a": 2}]) as (client, _):
        assert client.get("/orders/7").status_code == 200
        assert len(sent(client)) == 2
        assert not any("/*" in each for each in sent(client))


def test_outside_of_requests_and_in_excluded_ones_there_is_no_comment() -> None:
    with sqlite("traceparent_everywhere") as (client, _):
        client.app.state.run()  # type: ignore[attr-defined]
        client.get("/excluded")
        assert sent(client) == ["SELECT 1", "SELECT 1"]


def test_a_failure_costs_the_comment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr("otel_fastperf.instrumentation.sql_comments._traceparent", broken)
    with sqlite("traceparent_everywhere") as (client, telemetry):
        assert client.get("/orders/7").status_code == 200
        assert sent(client) == ["SELECT 1"]
        name = "fastperf_telemetry_errors_total"
        assert telemetry.metrics.registry.get_sample_value(name, {"part": "sql_comments"}) == 1


@asynccontextmanager
async def _disposed(engine: Any) -> AsyncIterator[None]:
    yield
    await engine.dispose()


def own_text(url: str, comments: str, *, is_async: bool) -> str:
    """What the server says that it got from a request."""
    app = FastAPI()
    statement = text(OWN_TEXT["postgresql" if url.startswith("postgresql") else "mysql"])
    found: list[str] = []
    engine = None
    if is_async:
        async_engine = create_async_engine(url)
        app.router.lifespan_context = lambda _app: _disposed(async_engine)

        @app.get("/orders/{order_id}")
        async def order() -> None:
            async with async_engine.connect() as connection:
                found.append((await connection.execute(statement, {"a": "1"})).scalar_one())
    else:
        engine = sync_engine = create_engine(url)

        @app.get("/orders/{order_id}")
        def order_of_thread() -> None:
            with sync_engine.connect() as connection:
                found.append(connection.execute(statement, {"a": "1"}).scalar_one())

    with setup_telemetry(app, settings=Settings(database={"sql_comments": comments})), TestClient(app) as client:
        assert client.get("/orders/7").status_code == 200
    if engine is not None:
        engine.dispose()
    (answer,) = found
    return re.sub(r"[0-9a-f]{32}-[0-9a-f]{16}", "IDS", answer.partition("/*")[2])


ROUTE = "route='/orders/{order_id}'*/"
BOTH = "route='/orders/{order_id}',traceparent='00-IDS-01'*/"


@pytest.mark.postgres
@pytest.mark.parametrize(("driver", "is_async"), [("psycopg", False), ("asyncpg", True)])
def test_postgresql_gets_the_comment_and_drivers_that_prepare_no_trace_unasked(
    driver: str, is_async: bool, postgresql_url: str
) -> None:
    url = with_driver(postgresql_url, driver)
    assert own_text(url, "traceparent", is_async=is_async) == ROUTE
    assert own_text(url, "traceparent_everywhere", is_async=is_async) == BOTH


@pytest.mark.mariadb
@pytest.mark.parametrize(("driver", "is_async"), [("pymysql", False), ("aiomysql", True)])
def test_mariadb_gets_the_trace(driver: str, is_async: bool, mariadb_url: str) -> None:
    assert own_text(with_mysql_driver(mariadb_url, driver), "traceparent", is_async=is_async) == BOTH

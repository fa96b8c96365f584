"""A connection that dies under a statement, or before it, leaves a span with the error."""

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette

from otel_fastperf import Settings, Telemetry, setup_telemetry
from tests.postgresql import postgresql_url, with_driver

__all__ = ["postgresql_url"]

#: ends its own connection
SUICIDE = "SELECT pg_terminate_backend(pg_backend_pid())"


def failed_statements(telemetry: Telemetry) -> list[ReadableSpan]:
    spans = [span for span in telemetry.spans() if span.kind is SpanKind.CLIENT]
    return [span for span in spans if span.status.status_code is StatusCode.ERROR]


def errors_counted(telemetry: Telemetry) -> float:
    return sum(
        value
        for name, labels, value in telemetry.metrics.samples(lambda _error: None)
        if name == "db_client_operation_duration_seconds_count" and labels["error_type"]
    )


def test_a_connection_that_was_closed_before_its_statement() -> None:
    """The driver makes no cursor, so the statement never begins."""
    with setup_telemetry(Starlette(), settings=Settings()) as telemetry:
        engine = create_engine("sqlite://")
        with pytest.raises(DBAPIError), engine.connect() as connection:  # noqa: PT012 - it raises in the last line
            driver: Any = connection.connection.driver_connection
            driver.close()
            connection.execute(text("SELECT name FROM users WHERE id = 7"))
        (span,) = failed_statements(telemetry)
        assert span.name == "SELECT users"
        attributes = dict(span.attributes or {})
        assert attributes["error.type"] == "sqlite3.ProgrammingError"
        assert attributes["db.query.text"] == "SELECT name FROM users WHERE id = ?"
        assert "closed database" in (span.status.description or "")
        assert errors_counted(telemetry) == 1


def test_a_database_that_cannot_be_reached_has_no_statement() -> None:
    with setup_telemetry(Starlette(), settings=Settings()) as telemetry:
        engine = create_engine("sqlite:////nowhere/at/all.db")
        with pytest.raises(DBAPIError):
            engine.connect()
        assert failed_statements(telemetry) == []


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_connection_that_the_server_ends_under_a_statement(postgresql_url: str, driver: str) -> None:
    async def die() -> None:
        engine = create_async_engine(with_driver(postgresql_url, driver))
        try:
            async with engine.connect() as connection:
                await connection.execute(text(SUICIDE))
        finally:
            await engine.dispose()

    with setup_telemetry(Starlette(), settings=Settings()) as telemetry:
        with pytest.raises(DBAPIError):
            asyncio.run(die())
        spans = [span for span in failed_statements(telemetry) if (span.attributes or {}).get("db.query.text")]
        assert [span.name for span in spans] == ["SELECT"]
        # what the server said, or what old versions of asyncpg make of it
        description = spans[0].status.description or ""
        assert "terminating connection" in description or "connection was closed" in description
        assert errors_counted(telemetry) >= 1

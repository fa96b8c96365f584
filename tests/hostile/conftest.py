"""Connections that a test leaves open are closed after it: Python 3.13 reports them in whatever test runs later."""

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Pool, event


@pytest.fixture(autouse=True)
def _closed_connections() -> Iterator[None]:
    opened: list[sqlite3.Connection] = []

    def connected(connection: Any, _entry: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            opened.append(connection)

    event.listen(Pool, "connect", connected)
    yield
    event.remove(Pool, "connect", connected)
    for connection in opened:
        with suppress(sqlite3.ProgrammingError):  # it belongs to a thread that has ended
            connection.close()

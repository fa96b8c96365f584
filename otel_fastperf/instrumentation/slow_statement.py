"""A statement above the slow-query threshold, as `statements` passes it to `explain`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Span

from otel_fastperf.requests.record import RequestRecord

if TYPE_CHECKING:
    from sqlalchemy import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStatement:
    """One execution of at least `slow_query` seconds; never an `executemany`. Passed on as soon as it has finished.

    `parameters` are user data. They may only be sent back to the database that they were meant for, and must be neither
    shown nor stored.

    Attributes:
        engine: Of an async engine, its sync engine.
        text: The text that the driver was given.
        parameters: The parameters that the driver was given: a tuple, list or dict, depending on the driver's style.
        dialect: SQLAlchemy's name: `postgresql`, `mysql`, `mariadb`, `sqlite`.
        fingerprint: `sql.describe.QueryText.fingerprint`; findings carry it as evidence `db.query.fingerprint`.
        summary: `sql.describe.QueryText.summary`.
        seconds: Duration.
        record: The request that ran it; None outside of requests.
        span: Its CLIENT span, which has ended, unless it is contrib's. None if it could not be made.
    """

    engine: "Engine"
    text: str
    parameters: Any
    dialect: str
    fingerprint: str
    summary: str
    seconds: float
    record: RequestRecord | None
    span: Span | None

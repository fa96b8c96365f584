"""What a statement over the threshold hands on to whoever explains it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Span

from otel_fastperf.requests.record import RequestRecord

if TYPE_CHECKING:
    from sqlalchemy import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStatement:
    """One execution that took at least `slow_query`; never an `executemany`. Given on as soon as it has finished.

    `parameters` hold the values of the application's users: they may be sent to the database they came for, and must
    not be shown or kept.
    """

    #: of an async engine, the sync one that it stands on
    engine: "Engine"
    #: as the driver got it
    text: str
    #: as the driver got them: a tuple, list or dict, by the driver's style
    parameters: Any
    #: SQLAlchemy's name: `postgresql`, `mysql`, `mariadb`, `sqlite`
    dialect: str
    #: `sql.QueryText.fingerprint`; findings have it as evidence `db.query.fingerprint`
    fingerprint: str
    summary: str
    seconds: float
    #: the request it ran for; None outside of requests
    record: RequestRecord | None
    #: its CLIENT span, which has ended; contrib's, not ended yet, where contrib made one. None if it could not be made
    span: Span | None

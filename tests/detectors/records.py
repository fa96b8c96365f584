"""Request records like those of the instrumentation, for tests of detectors."""

from typing import Any

from opentelemetry.trace import INVALID_SPAN

from otel_fastperf.findings import CallSite
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.sql.describe import describe
from otel_fastperf.sql.orm_loads import Load, LoadKind

#: a line of the application
LINE = CallSite("/srv/shop/orders.py", 41, "list_orders")


#: a statement of the application, not of the ORM
QUERY = Load(LoadKind.QUERY)


def ended(*groups: StatementGroup, seconds: float = 1.0, kind: str = "http") -> RequestRecord:
    """A request that took `seconds` and ran these statements."""
    record = RequestRecord(None, {"type": kind}, INVALID_SPAN, 0.0)
    record.ended = seconds
    record.statements = {f"{group.query.fingerprint} {number}": group for number, group in enumerate(groups)}
    return record


def repeated(
    text: str = "SELECT * FROM items WHERE items.order_id = ?",
    times: int = 10,
    *,
    seconds: float = 0.01,
    pause: float = 0.0,
    parallel: bool = False,
    load: Load = QUERY,
    lines: dict[CallSite | None, list[float]] | None = None,
    dialect: str = "postgresql",
) -> StatementGroup:
    """A statement that ran several times, `seconds` each, with a pause after each or all at once."""
    group = StatementGroup(describe(text, dialect), dialect, dialect, "shop")
    for number in range(times):
        start = 0.0 if parallel else number * (seconds + pause)
        group.add(start, start + seconds, 1, seconds)
    group.load = load
    group.lines = lines if lines is not None else {LINE: [times, times * seconds]}
    return group


def changed(group: StatementGroup, **values: Any) -> StatementGroup:
    """The group with other values."""
    for name, value in values.items():
        setattr(group, name, value)
    return group

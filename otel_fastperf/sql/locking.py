"""Which statements wait for locks on rows, and what database says that one waited too long."""

import re
from typing import Final

from otel_fastperf.sql.describe import QueryText

_LOCKS: Final = re.compile(r"\bFOR\s+(?:NO\s+KEY\s+|KEY\s+)?(?:UPDATE|SHARE)\b|\bLOCK\s+IN\s+SHARE\b", re.IGNORECASE)
_WRITES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"})
_BATCH: Final = "BATCH "
#: lock not available and deadlock: SQLSTATE of PostgreSQL, numbers of MySQL; SQLite has words only
_REFUSALS: Final = frozenset({"55P03", "40P01", "1205", "1213"})
_LOCKED: Final = re.compile(r"database (?:table )?is locked", re.IGNORECASE)


def locks_rows(query: QueryText) -> bool:
    """True if the statement locks rows, and so waits while another transaction has locked one of them."""
    operation = query.operation.removeprefix(_BATCH)
    return operation in _WRITES or (operation == "SELECT" and _LOCKS.search(query.text) is not None)


def is_select_for_update(query: QueryText) -> bool:
    """True if the statement reads rows in order to lock them."""
    return query.operation == "SELECT" and locks_rows(query)


def is_refusal(code: str, message: str) -> bool:
    """True if the database gave up waiting for a lock, or broke a deadlock."""
    return code in _REFUSALS or _LOCKED.search(message) is not None

"""Whether a statement does nothing but read: only such a one may be sent to the database a second time, in an EXPLAIN.

Denied unless known: what is not a single SELECT of plain clauses, whatever has a word that writes or locks, and calls
of functions that act. EXPLAIN without ANALYZE executes nothing; this is the first of two guards, the read-only
transaction is the second.
"""

import re
from typing import Final

from otel_fastperf.sql.describe import describe
from otel_fastperf.sql.keywords import keywords

#: a longer statement is not read: it would have to be sent once more as it is
LONGEST: Final = 64 * 1024


#: words that no plain SELECT has outside of quotes; REPLACE and INSERT are functions too, LOCK and SHARE are clauses
_DENIED: Final = keywords(
    "ALTER ANALYZE CALL COPY CREATE DELETE DO DROP DUMPFILE EXEC EXECUTE EXPLAIN GRANT HANDLER INSERT INTO LOCK MERGE"
    " OUTFILE PRAGMA REVOKE SET SHARE TRUNCATE UPDATE"
)
#: functions that do something, by the beginning of their names: sequences, locks, files, sleep, other servers, settings
_ACTS: Final = (
    "benchmark",
    "currval",
    "dblink",
    "edit",
    "get_lock",
    "is_used_lock",
    "lastval",
    "lo_",
    "load_",
    "nextval",
    "pg_advisory",
    "pg_backup",
    "pg_cancel",
    "pg_create",
    "pg_drop",
    "pg_export",
    "pg_file",
    "pg_import",
    "pg_logical",
    "pg_ls",
    "pg_notify",
    "pg_promote",
    "pg_read",
    "pg_reload",
    "pg_replication",
    "pg_rotate",
    "pg_sleep",
    "pg_start",
    "pg_stat_reset",
    "pg_stop",
    "pg_switch",
    "pg_terminate",
    "pg_try",
    "pg_wal",
    "query_to_xml",
    "release_",
    "set_config",
    "setval",
    "sleep",
    "source_pos_wait",
    "sys_e",
    "txid_current",
    "wait_for",
    "writefile",
)
_WORD: Final = re.compile(r'"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|(?P<word>[^\W\d][\w$]*(?:\.[^\W\d][\w$]*)*)')
_CALL: Final = re.compile(r"""["`]?(?P<name>[^\W\d][\w$]*)["`]?\s*\(""")


def only_reads(statement: str, dialect: str) -> bool:
    """True for a single SELECT, with or without WITH, that neither writes nor locks nor calls what acts."""
    # MySQL executes what stands in these comments
    if len(statement) > LONGEST or "/*!" in statement or "/*M!" in statement or ":=" in statement:
        return False
    query = describe(statement, dialect, max_length=2 * LONGEST)
    text = query.text.rstrip().rstrip(";")
    if query.operation != "SELECT" or ";" in text:
        return False
    words = {match["word"].upper() for match in _WORD.finditer(text) if match["word"]}
    return not words & _DENIED and not any(call["name"].lower().startswith(_ACTS) for call in _CALL.finditer(text))

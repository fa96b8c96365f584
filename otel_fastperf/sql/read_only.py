"""Does a statement only read? Only such a statement may be sent to the database again, in an EXPLAIN.

Anything but a single SELECT of plain clauses is denied, and so is a SELECT with a word that writes or locks, or with a
call of a function that has effects. EXPLAIN without ANALYZE executes nothing anyway. This is the first of two guards;
the second is the read-only transaction.
"""

import re
from typing import Final

from otel_fastperf.sql.describe import describe
from otel_fastperf.sql.keywords import keywords

#: longest statement that is accepted, in characters: it would have to be sent again in full
LONGEST: Final = 64 * 1024


#: words that a plain SELECT never has outside of quotes; some are also functions (INSERT) or clauses (LOCK, SHARE)
_DENIED: Final = keywords(
    "ALTER ANALYZE CALL COPY CREATE DELETE DO DROP DUMPFILE EXEC EXECUTE EXPLAIN GRANT HANDLER INSERT INTO LOCK MERGE"
    " OUTFILE PRAGMA REVOKE SET SHARE TRUNCATE UPDATE"
)
#: beginnings of names of functions with effects: sequences, locks, files, sleep, other servers, settings
_EFFECTS: Final = (
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
    """True for a single SELECT, also with WITH, that neither writes, nor locks, nor calls functions with effects."""
    # MySQL executes the text in these comments
    if len(statement) > LONGEST or "/*!" in statement or "/*M!" in statement or ":=" in statement:
        return False
    query = describe(statement, dialect, max_length=2 * LONGEST)
    text = query.text.rstrip().rstrip(";")
    if query.operation != "SELECT" or ";" in text:
        return False
    words = {match["word"].upper() for match in _WORD.finditer(text) if match["word"]}
    return not words & _DENIED and not any(call["name"].lower().startswith(_EFFECTS) for call in _CALL.finditer(text))

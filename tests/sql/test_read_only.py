"""Statements that may be sent to the database again: a single SELECT that neither writes nor locks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_fastperf.sql.read_only import LONGEST, only_reads


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "select * from users where email = 'DELETE; DROP TABLE users'",
        "SELECT users.id, users.email \nFROM users \nWHERE users.id IN ($1::INTEGER, $2::INTEGER) LIMIT $3::INTEGER",
        "WITH recent AS (SELECT * FROM orders WHERE created_at > now()) SELECT count(*) FROM recent",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 10) SELECT * FROM t",
        "(SELECT id FROM a) UNION ALL (SELECT id FROM b) ORDER BY 1",
        "SELECT replace(name, 'a', 'b') FROM users",
        'SELECT "update", `delete`, t.share FROM t',
        "SELECT 1;",
        "SELECT /*+ INDEX(users) */ * FROM users -- DELETE",
        "SELECT substring(name from 1 for 3), extract(year FROM created_at) FROM users",
    ],
)
def test_a_plain_select_is_read_only(statement: str) -> None:
    assert only_reads(statement, "postgresql")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO users VALUES (1)",
        "UPDATE users SET name = 'x'",
        "DELETE FROM users",
        "INSERT INTO users SELECT * FROM others",
        "WITH gone AS (DELETE FROM users RETURNING *) SELECT * FROM gone",
        "WITH made AS (INSERT INTO users VALUES (1) RETURNING id) SELECT id FROM made",
        "WITH x AS (SELECT 1) UPDATE users SET name = 'x'",
        "SELECT * INTO copies FROM users",
        "SELECT * FROM users FOR UPDATE",
        "SELECT * FROM users FOR NO KEY UPDATE SKIP LOCKED",
        "SELECT * FROM users FOR SHARE",
        "SELECT * FROM users FOR KEY SHARE",
        "SELECT * FROM users LOCK IN SHARE MODE",
        "SELECT 1; DELETE FROM users",
        "SELECT 1;SELECT 2",
        "SELECT * FROM users INTO OUTFILE '/x'",
        "SELECT @a := 1",
        "SELECT 1 /*!50000 INTO OUTFILE '/x' */",
        "SELECT 1 /*M! FOR UPDATE */",
        "SELECT nextval('ids')",
        "SELECT pg_catalog.setval('ids', 1)",
        "SELECT pg_sleep(1)",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT * FROM dblink('x', 'DELETE FROM y') AS t(a int)",
        "SELECT lo_import('/etc/passwd')",
        "SELECT get_lock('a', 1), sleep(1)",
        "SELECT set_config('search_path', 'x', false)",
        "CALL work()",
        "EXPLAIN ANALYZE SELECT 1",
        "VALUES (1)",
        "TABLE users",
        "COPY users TO STDOUT",
        "SET search_path = x",
        "",
        "?",
        "SELECT " + "1, " * LONGEST + "1",
    ],
)
def test_other_statements_are_not_read_only(statement: str) -> None:
    assert not only_reads(statement, "postgresql")
    assert not only_reads(statement, "mysql")


def test_a_function_in_quotes_is_a_function() -> None:
    assert not only_reads("SELECT \"nextval\" ('ids')", "postgresql")
    assert not only_reads("SELECT `sleep`(1)", "mysql")


@given(st.text(), st.sampled_from(["postgresql", "mysql", "sqlite", ""]))
def test_any_text_is_judged_without_error(statement: str, dialect: str) -> None:
    assert only_reads(statement, dialect) in {True, False}


@given(st.text(alphabet="abc ();'\"`-/*!\n$", max_size=40))
def test_a_second_statement_is_never_hidden(text: str) -> None:
    """A DELETE outside of quotes and comments is detected after any text."""
    if only_reads(f"SELECT 1 {text}", "postgresql"):
        assert not only_reads(f"SELECT 1 ; DELETE FROM users WHERE {text}", "postgresql")

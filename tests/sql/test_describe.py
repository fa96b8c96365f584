"""Descriptions of SQL statements: free of values, with stable names, in linear time."""

import string
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, event, insert, literal, select, tuple_
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql, sqlite
from sqlalchemy.engine import Dialect

from otel_fastperf.sql.describe import STATEMENT_LENGTH, SUMMARY_LENGTH, QueryTexts, describe
from otel_fastperf.sql.outline import OPERATIONS, OTHER

DIALECTS: Final = ("postgresql", "cockroachdb", "mysql", "mariadb", "sqlite", "mssql", "oracle", "snowflake", "")


# --- text: no literals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "statement", "text"),
    [
        # strings
        ("", "SELECT 'it''s', ''", "SELECT ?, ?"),
        ("postgresql", r"SELECT 'C:\', E'it\'s', N'n', B'01', X'1F', U&'d\0061'", "SELECT ?, ?, ?, ?, ?, ?"),
        ("postgresql", "SELECT $$it's$$, $body$ a $$ b $body$", "SELECT ?, ?"),
        ("mysql", r"""SELECT 'it\'s', "say \"hi\" ""twice"" x", `a``b`""", "SELECT ?, ?, `a``b`"),
        ("mariadb", "SELECT _utf8mb4'x', b'01', x'1F', 'it''s'", "SELECT _utf8mb4?, ?, ?, ?"),
        (
            "oracle",
            "SELECT q'[it's]', Q'{it's}', nq'<it's>', q'(it's)', q'!it's!' FROM dual",
            "SELECT ?, ?, ?, ?, ? FROM dual",
        ),
        ("mssql", "SELECT N'it''s' FROM [order]]s]", "SELECT ? FROM [order]]s]"),
        ("sqlite", "SELECT x'1F', t.\"col\", [col], `col`", 'SELECT ?, t."col", [col], `col`'),
        ("", "SELECT DATE '2020-01-01', INTERVAL '1 day'", "SELECT DATE ?, INTERVAL ?"),
        # numbers
        ("", "SELECT 1, 1.5, .5, 5., 1e3, 1.5E-3, 0x1F, 1_000, -7", "SELECT ?, ?, ?, ?, ?, ?, ?, ?, -?"),
        ("", "SELECT t1.col2, x1y, tab_3 FROM t1", "SELECT t1.col2, x1y, tab_3 FROM t1"),
        ("postgresql", "SELECT tags[1], tags[2:3], id::numeric(10, 2)", "SELECT tags[?], tags[?:?], id::numeric(?, ?)"),
        ("mssql", "SELECT $12.50", "SELECT $?"),
        # constants are kept
        ("", "SELECT NULL, TRUE, false", "SELECT NULL, TRUE, false"),
        # bind markers are kept
        ("postgresql", "SELECT $1, $23::INTEGER, %(id_1)s, %s", "SELECT $1, $23::INTEGER, %(id_1)s, %s"),
        ("sqlite", "SELECT ?, ?1, :name, @name, $name", "SELECT ?, ?1, :name, @name, $name"),
        ("oracle", "SELECT :1, :name", "SELECT :1, :name"),
        ("mssql", "SELECT @p1, @@ROWCOUNT", "SELECT @p1, @@ROWCOUNT"),
        # operators that resemble something else
        (
            "postgresql",
            "SELECT a ->> 'k', b ? 'k', c #> '{a}', d @> '{}', e %(5)",
            "SELECT a ->> ?, b ? ?, c #> ?, d @> ?, e %(?)",
        ),
        # comments and space
        ("", "SELECT 1 -- it's one\n  , 2 /* it's\n two */\t FROM\n t ", "SELECT ? , ? FROM t"),
        ("postgresql", "SELECT/* a /* it's */ b */1", "SELECT ?"),
        ("sqlite", "SELECT /* a /* it's */ 1", "SELECT ?"),
        ("mysql", "SELECT 1 # it's one\n, 5--1 FROM t -- it's\n", "SELECT ? , ?--? FROM t"),
        ("", "SELECT 1 /*traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/", "SELECT ?"),
        # literals, names and comments without an end
        ("", "SELECT 'secret", "SELECT ?"),
        ("", 'SELECT "secret', "SELECT ?"),
        ("mysql", "SELECT `secret", "SELECT ?"),
        ("mssql", "SELECT [secret", "SELECT ?"),
        ("postgresql", "SELECT $tag$ secret $$", "SELECT ?"),
        ("postgresql", "SELECT 1 /* secret /* */", "SELECT ?"),
        ("mysql", "SELECT 'secret\\", "SELECT ?"),
        # empty statements
        ("", "", ""),
        ("", " \n-- nothing", ""),
    ],
)
def test_the_text_is_the_statement_without_literals(dialect: str, statement: str, text: str) -> None:
    assert describe(statement, dialect).text == text


def test_in_an_unknown_dialect_an_ambiguous_string_extends_to_the_end() -> None:
    r"""`\'` ends a string in standard SQL, but not in MySQL; each reading would show one of the two values."""
    assert describe(r"SELECT 'a\' AND b = 'secret'").text == "SELECT ?"
    assert describe(r"SELECT 'it\'s secret', b").text == "SELECT ?"
    assert describe(r"SELECT 'a\\', b").text == "SELECT ?, b"


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("x IN (1, 2, 3)", "x IN (?)"),
        ("x IN (?,?)", "x IN (?)"),
        ("x in (%s, %s)", "x in (?)"),
        ("x NOT IN ($1::INTEGER, $2::INTEGER)", "x NOT IN (?)"),
        ("x IN (%(x_1_1)s, %(x_1_2)s)", "x IN (?)"),
        ("x IN ('a', NULL, -1, TRUE)", "x IN (?)"),
        ("(x, y) IN ((1, 2), (3, 4))", "(x, y) IN (?)"),
        ("x IN ($1::VARCHAR(10), $2::TIMESTAMP WITH TIME ZONE)", "x IN (?)"),
        ("x IN (y, z)", "x IN (y, z)"),
        ("x IN (SELECT y FROM z)", "x IN (SELECT y FROM z)"),
        ("x IN ()", "x IN ()"),
        ("x IN (1, 2", "x IN (?)"),
    ],
)
def test_a_list_of_values_is_one_value(statement: str, text: str) -> None:
    assert describe(f"SELECT 1 WHERE {statement}", "postgresql").text == f"SELECT ? WHERE {text}"


def test_the_first_row_of_a_values_list_is_kept() -> None:
    rows = describe("INSERT INTO t (a, b) VALUES (1, now()), (DEFAULT, f('x', (2))), (3, 4) RETURNING id")
    assert rows.text == "INSERT INTO t (a, b) VALUES (?, now()) RETURNING id"


def test_a_cut_text_ends_with_an_ellipsis() -> None:
    text = describe(f"SELECT {', '.join('abc' for _ in range(1000))}", max_length=100).text
    assert len(text) == 100
    assert text.endswith("…")
    assert describe("SELECT 1", max_length=len("SELECT ?")).text == "SELECT ?"


# --- fingerprint ------------------------------------------------------------------------------------------------------


def test_fingerprints_differ_between_statements_but_not_between_values() -> None:
    same = {
        describe(statement, "postgresql").fingerprint
        for statement in (
            "SELECT a FROM t WHERE x = 1 AND y IN (1, 2)",
            "SELECT a FROM t WHERE x = 'b' AND y IN (3)",
            "SELECT a FROM t\n WHERE x = $1 AND y IN ($2::INTEGER, $3::INTEGER) -- hello",
            "SELECT a FROM t WHERE x = %(x_1)s AND y IN (%(y_1_1)s)",
        )
    }
    assert len(same) == 1
    assert describe("SELECT a FROM t WHERE x = 1 AND z IN (1, 2)", "postgresql").fingerprint not in same
    (fingerprint,) = same
    assert len(fingerprint) == 16
    assert set(fingerprint) <= set(string.hexdigits)


TABLE: Final = Table("item", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))


SQLALCHEMYS: Final[dict[str, Callable[[], Dialect]]] = {
    "asyncpg": postgresql.asyncpg.dialect,
    "psycopg": postgresql.psycopg.dialect,
    "mysql": mysql.dialect,
    "sqlite": sqlite.dialect,
    "mssql": mssql.dialect,
    "oracle": oracle.dialect,
}


@pytest.mark.parametrize("driver", SQLALCHEMYS)
def test_sqlalchemy_s_lists_of_any_length_have_one_fingerprint(driver: str) -> None:
    dialect = SQLALCHEMYS[driver]()

    def fingerprint(length: int) -> str:
        ids = list(range(length))
        pairs = [(number, str(number)) for number in ids]
        statement = select(TABLE).where(
            TABLE.c.id.in_(ids), tuple_(TABLE.c.id, TABLE.c.name).in_(pairs), TABLE.c.name == literal("a")
        )
        compiled = str(statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True}))
        return describe(compiled, dialect.name).fingerprint

    assert {fingerprint(length) for length in (1, 2, 17)} == {fingerprint(3)}


def test_sqlalchemy_s_multi_row_inserts_have_one_fingerprint_per_shape() -> None:
    """Multi-row inserts (`insertmanyvalues`) of different sizes, on a real engine."""
    engine = create_engine("sqlite://")
    seen: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: seen.append(arguments[2]))
    with engine.begin() as connection:
        TABLE.metadata.create_all(connection)
        seen.clear()
        for rows in (2, 3, 50):
            names = [{"name": str(number)} for number in range(rows)]
            connection.execute(insert(TABLE).returning(TABLE.c.id), names)
    engine.dispose()
    texts = [describe(statement, "sqlite") for statement in seen]
    assert len(texts) == 3
    assert len({text.fingerprint for text in texts}) == 1
    assert {text.summary for text in texts} == {"INSERT item"}


# --- summary, operation, collection -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "summary"),
    [
        # the examples of the semantic conventions
        ("SELECT *\n FROM wuser_table\n WHERE username = ?", "SELECT wuser_table"),
        (
            "INSERT INTO shipping_details (order_id, address) SELECT order_id, address FROM orders WHERE order_id = ?",
            "INSERT shipping_details SELECT orders",
        ),
        ("SELECT * FROM songs, artists WHERE songs.artist_id == artists.id", "SELECT songs artists"),
        (
            "SELECT order_date FROM (SELECT * FROM orders o JOIN customers c ON o.customer_id = c.customer_id)",
            "SELECT SELECT orders customers",
        ),
        ('SELECT * FROM "song list"', 'SELECT "song list"'),
        # select
        ("select a.id from users as a left outer join orders o on a.id = o.user_id", "SELECT users orders"),
        ('SELECT "user".id FROM public."user", a.b.c', "SELECT public.user a.b.c"),
        ("SELECT * FROM employees e JOIN employees m ON m.id = e.manager_id", "SELECT employees"),
        ("SELECT a, (SELECT max(x) FROM b) FROM c WHERE EXISTS (SELECT 1 FROM d)", "SELECT SELECT b c SELECT d"),
        ("SELECT * FROM a UNION ALL SELECT * FROM b", "SELECT a SELECT b"),
        ("(SELECT 1 FROM a) UNION (SELECT 1 FROM b)", "SELECT a SELECT b"),
        ("SELECT * FROM (a CROSS JOIN b), c", "SELECT a b c"),
        ("SELECT * FROM a, LATERAL (SELECT * FROM b) x, ONLY c", "SELECT a SELECT b c"),
        ("SELECT EXTRACT(YEAR FROM created), TRIM(BOTH ' ' FROM name) FROM a", "SELECT a"),
        ("SELECT * FROM a WHERE x IS NOT DISTINCT FROM y", "SELECT a"),
        ("SELECT * FROM generate_series(1, 3) AS n, a, unnest(a.tags)", "SELECT a"),
        ("SELECT * FROM (VALUES (1), (2)) AS v (x), a", "SELECT a"),
        ("SELECT * FROM a WHERE b = 1 GROUP BY c, d ORDER BY e, f LIMIT 1 FOR UPDATE OF a, g", "SELECT a"),
        ("SELECT 1", "SELECT"),
        ("SELECT x INTO copy FROM a", "SELECT copy a"),
        ("SELECT * FROM a WITH (NOLOCK), b WITH (NOLOCK)", "SELECT a b"),
        ("TABLE users", "TABLE users"),
        # common table expressions
        ("WITH recent AS (SELECT * FROM orders) SELECT * FROM recent JOIN users ON TRUE", "SELECT orders SELECT users"),
        (
            "WITH a (x, y) AS (SELECT 1, 2), b AS MATERIALIZED (SELECT * FROM a, c) SELECT * FROM A, b",
            "SELECT SELECT c SELECT",
        ),
        ("WITH RECURSIVE t AS (SELECT 1 UNION SELECT n FROM t) SELECT * FROM t", "SELECT SELECT SELECT"),
        ("WITH users AS (SELECT * FROM users) SELECT * FROM users", "SELECT users SELECT"),
        ("WITH gone AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM gone", "DELETE a INSERT b SELECT"),
        ("INSERT INTO a WITH x AS (SELECT * FROM b) SELECT * FROM x", "INSERT a SELECT b SELECT"),
        # data
        (
            "INSERT INTO items (comment, values_) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET a = excluded.a",
            "INSERT items",
        ),
        ("INSERT INTO t (a) VALUES (1) ON DUPLICATE KEY UPDATE a = VALUES(a), b = VALUES(b)", "INSERT t"),
        ("INSERT OR REPLACE INTO t VALUES (1)", "INSERT t"),
        ("REPLACE INTO t VALUES (1)", "REPLACE t"),
        ("INSERT INTO t (a) VALUES ((SELECT id FROM u))", "INSERT t SELECT u"),
        ("UPDATE ONLY a SET x = 1, y = 2 FROM b, c WHERE a.id = b.id", "UPDATE a b c"),
        ("UPDATE a, b SET a.x = b.x", "UPDATE a b"),
        ("UPDATE OR IGNORE a SET x = (SELECT y FROM b)", "UPDATE a SELECT b"),
        ("DELETE FROM a USING b JOIN c USING (id), d WHERE a.id = b.id", "DELETE a b c d"),
        (
            "MERGE INTO a USING (SELECT * FROM b) s ON a.id = s.id WHEN MATCHED THEN UPDATE SET x = 1",
            "MERGE a SELECT b",
        ),
        ("COPY t (a, b) FROM STDIN", "COPY t"),
        # definitions
        ("CREATE TABLE x (id INT REFERENCES y (id) ON DELETE CASCADE ON UPDATE SET NULL)", "CREATE TABLE x"),
        ("CREATE TEMPORARY TABLE IF NOT EXISTS x AS SELECT * FROM y", "CREATE TABLE x SELECT y"),
        ("CREATE OR REPLACE VIEW v AS WITH w AS (SELECT * FROM a) SELECT * FROM w", "CREATE VIEW v SELECT a SELECT"),
        ("CREATE UNIQUE INDEX CONCURRENTLY ix ON t (a, b)", "CREATE INDEX ix"),
        ("DROP INDEX ix", "DROP INDEX ix"),
        ("DROP TABLE IF EXISTS a, b CASCADE", "DROP TABLE a b"),
        ("ALTER TABLE a ADD COLUMN b INT", "ALTER TABLE a"),
        ("CREATE USER bob PASSWORD 'x'", "CREATE USER"),
        ("TRUNCATE TABLE a, b", "TRUNCATE a b"),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY v", "REFRESH VIEW v"),
        # other statements
        ("CALL proc(1, 2)", "CALL proc"),
        ("{call proc(?)}", "CALL proc"),
        ("EXEC dbo.proc @a = 1", "EXEC dbo.proc"),
        ("BEGIN", "BEGIN"),
        ("BEGIN IMMEDIATE", "BEGIN"),
        ("ROLLBACK TO SAVEPOINT sa_savepoint_1", "ROLLBACK"),
        ("SET LOCAL statement_timeout = 100", "SET"),
        ("PRAGMA main.table_info('users')", "PRAGMA"),
        ("GRANT SELECT ON a TO b", "GRANT"),
        ("EXPLAIN (ANALYZE, BUFFERS) UPDATE a SET x = 1", "EXPLAIN UPDATE a"),
        ("EXPLAIN QUERY PLAN SELECT * FROM a", "EXPLAIN SELECT a"),
        ('DECLARE "c_1" NO SCROLL CURSOR FOR SELECT * FROM a', "DECLARE SELECT a"),
        ("BEGIN; UPDATE a SET x = 1; COMMIT", "BEGIN UPDATE a COMMIT"),
        # unknown words
        ("FROBNICATE THE users", ""),
        ("'SELECT' x", ""),
        ("", ""),
    ],
)
def test_the_summary_has_verbs_and_targets_in_order(statement: str, summary: str) -> None:
    assert describe(statement).summary == summary


@pytest.mark.parametrize(
    ("statement", "operation"),
    [
        ("select 1", "SELECT"),
        ("/* hint */ Update a SET x = 1", "UPDATE"),
        ("WITH a AS (DELETE FROM b RETURNING *) INSERT INTO c SELECT * FROM a", "INSERT"),
        ("(SELECT 1) UNION (SELECT 2)", "SELECT"),
        ("EXPLAIN SELECT 1", "EXPLAIN"),
        ("BEGIN; SELECT 1", "BEGIN"),
        ("FROBNICATE users; SELECT 1", OTHER),
        ("x" * 300, OTHER),
        ("(INTO x", OTHER),
        ("x JOIN y", OTHER),
        ("", OTHER),
    ],
)
def test_the_operation_is_the_main_verb(statement: str, operation: str) -> None:
    assert describe(statement).operation == operation


@pytest.mark.parametrize(
    ("statement", "collection"),
    [
        ("SELECT * FROM users", "users"),
        ('SELECT * FROM app."Users"', "app.Users"),
        ("SELECT * FROM a WHERE id IN (SELECT id FROM a)", "a"),
        ("SELECT * FROM a JOIN b ON TRUE", ""),
        ("INSERT INTO a SELECT * FROM b", ""),
        ("CREATE TABLE a (id INT)", "a"),
        ("CREATE INDEX ix ON a (id)", ""),
        ("CALL proc()", ""),
        ("SELECT 1", ""),
    ],
)
def test_the_collection_is_the_only_table(statement: str, collection: str) -> None:
    assert describe(statement).collection == collection


def test_quoted_names_of_each_dialect_are_shown_without_quotes() -> None:
    assert describe("SELECT * FROM `shop`.`order`", "mysql").summary == "SELECT shop.order"
    assert describe("SELECT * FROM [dbo].[order]", "mssql").summary == "SELECT dbo.order"
    assert describe("SELECT * FROM [dbo].[order line]", "mssql").summary == "SELECT dbo.[order line]"


def test_a_batch_is_marked() -> None:
    text = describe("INSERT INTO a (x) VALUES (?)", batch=True)
    assert (text.summary, text.operation, text.collection) == ("BATCH INSERT a", "BATCH INSERT", "a")
    unknown = describe("FROBNICATE", batch=True)
    assert (unknown.summary, unknown.operation) == ("BATCH", "BATCH")


def test_a_long_summary_is_cut_between_words() -> None:
    tables = [f"table_{number:03}" for number in range(100)]
    words = describe(f"SELECT * FROM {', '.join(tables)}").summary.split()
    assert words == ["SELECT", *tables[: len(words) - 1]]
    assert SUMMARY_LENGTH - len("table_000 ") < len(" ".join(words)) <= SUMMARY_LENGTH
    assert describe(f"SELECT * FROM {'x' * 300}").summary == "SELECT"


# --- properties -------------------------------------------------------------------------------------------------------

CANARY: Final = "cAnArY"
ANY_TEXT: Final = st.text(st.characters(codec=None, exclude_categories=()))


def pieces(text: str) -> list[str]:
    return text.split()


SQL_PIECES: Final = st.lists(
    st.sampled_from(
        pieces(r"""
            SELECT FROM WHERE WITH RECURSIVE AS INSERT INTO VALUES UPDATE SET DELETE USING JOIN ON IN NOT NULL CREATE
            DROP TABLE INDEX CALL EXPLAIN UNION ALL DISTINCT a b.c t1 "q" `s` [u] ( ( ( ) ) ) , , ; . :: :n ? %s %(n)s
            $1 @p 1 2.5e-3 0xFF 'x' 'it''s' E'\'' $$d$$ $t$d$t$ -- /* */ # = + - * \ ' " ` [ ]
        """)
    )
).map(" ".join)


def standard(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def escaped(value: str, quote: str = "'") -> str:
    return quote + value.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


def dollar(value: str) -> str:
    return f"$q${value.replace('$', '')}$q$"


#: How a value is written as a literal, by dialect.
LITERALS: Final[dict[str, list[Callable[[str], str]]]] = {
    "postgresql": [standard, lambda value: f"E{escaped(value)}", dollar, lambda value: f"N{standard(value)}"],
    "mysql": [escaped, lambda value: escaped(value, '"'), lambda value: f"_utf8{escaped(value)}"],
    "sqlite": [standard],
    "mssql": [standard, lambda value: f"N{standard(value)}"],
    "oracle": [standard, lambda value: "q'[" + value.replace("]", "") + "]'"],
    "": [standard, escaped],
}
#: Places of a literal, `{0}`. Each statement has a second literal, which must not pair with the first.
PLACES: Final = (
    "SELECT a FROM t WHERE x = {0} AND y = 'other'",
    "SELECT a FROM t WHERE x IN ('other', {0}, 1) AND y = 2",
    "INSERT INTO t (a, b) VALUES ({0}, 'other'), ('other', {0})",
    "UPDATE t SET a = f('other', {0}), b = {0}",
    "SELECT 'other' /* it's */, {0}\n-- it's\nFROM t",
    "WITH x AS (SELECT {0} AS v) SELECT * FROM x, t WHERE v LIKE {0}",
    "CALL p({0})",
)


@st.composite
def statements_with_canary(draw: st.DrawFn) -> tuple[str, str]:
    """A dialect and a statement that contains the canary in its literals."""
    dialect = draw(st.sampled_from(sorted(LITERALS)))
    around = st.text(st.sampled_from("'\"\\`$[]-/*#\n; ab?%:éß😀"), max_size=8)
    value = draw(around) + CANARY + draw(around)
    literal = draw(st.sampled_from(LITERALS[dialect]))(value)
    return dialect, draw(st.sampled_from(PLACES)).format(literal)


@settings(max_examples=500)
@given(statements_with_canary())
def test_no_part_of_a_string_is_ever_shown(case: tuple[str, str]) -> None:
    dialect, statement = case
    assert CANARY in statement
    assert CANARY.lower() not in repr(describe(statement, dialect)).lower()


@given(
    dialect=st.sampled_from(DIALECTS),
    number=st.integers(10**6, 10**18).map(str)
    | st.floats(1e6, 1e300).map(repr)
    | st.integers(10**6, 10**9).map(hex)
    | st.tuples(st.integers(10**6, 10**9), st.integers(100, 300)).map(lambda pair: f".{pair[0]}E-{pair[1]}"),
    place=st.sampled_from(PLACES),
)
def test_no_number_is_ever_shown(dialect: str, number: str, place: str) -> None:
    shown = describe(place.format(number), dialect)
    digits = set("0123456789") & set(shown.text + shown.summary + shown.operation + shown.collection)
    assert not digits


@settings(max_examples=500)
@given(statement=ANY_TEXT | SQL_PIECES, dialect=st.sampled_from(DIALECTS), batch=st.booleans())
def test_every_string_has_a_description_within_bounds(statement: str, dialect: str, batch: bool) -> None:
    shown = describe(statement, dialect, batch=batch, max_length=64)
    for part in (shown.text, shown.summary, shown.operation, shown.collection, shown.fingerprint):
        part.encode("utf-8")
    assert len(shown.text) <= 64
    assert len(shown.summary) <= SUMMARY_LENGTH
    assert shown.operation.removeprefix("BATCH ") in OPERATIONS | {"BATCH"}
    assert len(shown.fingerprint) == 16


@settings(max_examples=300)
@given(statement=SQL_PIECES, dialect=st.sampled_from(DIALECTS))
def test_describing_a_description_changes_nothing(statement: str, dialect: str) -> None:
    once = describe(statement, dialect)
    twice = describe(once.text, dialect)
    assert (twice.text, twice.fingerprint) == (once.text, once.fingerprint)


def hostile(size: int) -> Iterator[str]:
    """Texts of about `size` characters that would make backtracking expressions slow."""
    words = ("IN (", "IN (1,", "VALUES (", "VALUES (1),", "FROM (", "SELECT ", "UNION SELECT 1 ", "WITH a AS (")
    signs = pieces(r"""
        ( ) ' " ` [ \ $ $$ $a %( %(a : :: @ # . .. a. a." `a. - -- / */ /* /**/ /*/**/*/ E'\ q'a 1e+ 1. a, , ;
    """)
    yield from (piece * (size // len(piece)) for piece in (*words, *signs))
    yield "SELECT '" + "a" * size + "'"
    yield "SELECT * FROM " + ", ".join(f"t{number}" for number in range(size // 8))
    yield "WITH " + ", ".join(f"t{number} AS (SELECT 1)" for number in range(size // 24)) + " SELECT * FROM t1"
    yield "$" + "a" * (size // 2) + "$" + "a" * (size // 2)
    yield "SELECT 1" + " " * size * 10


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "mssql", "oracle", ""])
def test_every_text_takes_linear_time(dialect: str) -> None:
    """30,000 characters take 50 ms at most; in quadratic time they would take minutes."""
    for text in hostile(30_000):
        started = time.process_time()
        describe(text, dialect)
        assert time.process_time() - started < 5, text[:20]


# --- the cache -------------------------------------------------------------------------------------------------------


def test_a_statement_seen_before_has_the_same_description() -> None:
    texts = QueryTexts()
    first = texts.describe("SELECT * FROM a", "sqlite")
    assert texts.describe("SELECT * FROM a", "sqlite") is first
    assert first == describe("SELECT * FROM a", "sqlite")


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ('SELECT * FROM users WHERE name = "ann"', "SELECT * FROM users WHERE name = ?"),
        ('SELECT * FROM t WHERE a IN ("x", "y") AND b LIKE "%z"', "SELECT * FROM t WHERE a IN (?) AND b LIKE ?"),
        ('SELECT * FROM t WHERE a BETWEEN "x" AND "y"', "SELECT * FROM t WHERE a BETWEEN ? AND ?"),
        ('SELECT coalesce(a, "x") FROM t HAVING max(b) > "y"', "SELECT coalesce(a, ?) FROM t HAVING max(b) > ?"),
        ('INSERT INTO t VALUES ("x", ?)', "INSERT INTO t VALUES (?, ?)"),
        ('UPDATE t SET "group" = "x", "b" = ?', 'UPDATE t SET "group" = ?, "b" = ?'),
        ('SELECT value FROM json_each("[1]")', "SELECT value FROM json_each(?)"),
    ],
)
def test_a_string_in_double_quotes_is_a_literal_where_a_dialect_allows_it(
    dialect: str, statement: str, text: str
) -> None:
    assert describe(statement, dialect).text == text


@pytest.mark.parametrize(
    "statement",
    [
        'INSERT INTO "order" ("group", "from") VALUES (?, ?) RETURNING "id"',
        'SELECT "order".id FROM "order" JOIN "user" AS "U" ON "U".id = "order"."user" ORDER BY "order"."at", "x"',
        'WITH "a" AS (SELECT t.b FROM t), "c" AS (SELECT t.d FROM t) SELECT count(*) FROM "a", "c" "e"',
        'DELETE FROM "order" WHERE "group" = ? AND "from" IS NULL',
        'PRAGMA main.table_info("orders")',
        'CREATE TABLE "Tag" ("Id" INTEGER NOT NULL, PRIMARY KEY ("Id"))',
        'INSERT INTO "t" ("a") VALUES (?) ON CONFLICT ("a") DO UPDATE SET "b" = excluded."b"',
    ],
)
def test_names_in_double_quotes_stay(statement: str) -> None:
    """As SQLAlchemy writes names that are reserved words or have capital letters."""
    assert describe(statement, "sqlite").text == statement


@pytest.mark.parametrize("dialect", ["bigquery", "spark", "databricks", "hive"])
@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ('SELECT "x\\"y", \'z\' FROM `a.b.c` WHERE d = "e"', "SELECT ?, ? FROM `a.b.c` WHERE d = ?"),
        ('SELECT r"a\\b", """c "d" e""", b\'f\' FROM t', "SELECT ?, ?, ? FROM t"),
    ],
)
def test_double_quotes_of_warehouses_hold_strings(dialect: str, statement: str, text: str) -> None:
    assert describe(statement, dialect).text == text


def test_dialects_and_batches_are_not_confused() -> None:
    texts = QueryTexts()
    statement = 'INSERT INTO a VALUES ("b")'
    assert texts.describe(statement, "mysql").text == "INSERT INTO a VALUES (?)"
    assert texts.describe(statement, "postgresql").text == statement
    assert texts.describe(statement, "sqlite", batch=True).operation == "BATCH INSERT"
    assert texts.describe(statement, "sqlite").operation == "INSERT"


def test_texts_have_the_maximum_length() -> None:
    assert len(QueryTexts(max_length=70).describe(f"SELECT {'a' * 100}").text) == 70


def test_statements_that_do_not_recur_are_evicted() -> None:
    texts = QueryTexts(capacity=2)
    first = texts.describe("SELECT 1 FROM a")
    for number in range(3):
        texts.describe(f"SELECT {number} FROM b")
    assert texts.describe("SELECT 1 FROM a") is not first


def test_a_long_statement_is_described_from_its_beginning() -> None:
    texts = QueryTexts()
    rows = ", ".join("(?, 'x')" for _ in range(STATEMENT_LENGTH))
    shown = texts.describe(f"INSERT INTO a (b, c) VALUES {rows}")
    assert (shown.text, shown.summary) == ("INSERT INTO a (b, c) VALUES (?, ?)", "INSERT a")
    assert texts.describe(f"INSERT INTO a (b, c) VALUES {rows}, (?, 'y')") is shown


def test_threads_can_share_the_cache() -> None:
    texts = QueryTexts(capacity=4)
    statements = [f"SELECT * FROM t{number}" for number in range(16)] * 50
    with ThreadPoolExecutor(8) as threads:
        summaries = list(threads.map(lambda statement: texts.describe(statement).summary, statements))
    assert summaries == [statement.replace(" * FROM", "") for statement in statements]

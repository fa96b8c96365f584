"""The columns that conditions compare."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_fastperf.sql.columns import column_of_one_value, compared_columns, comparisons
from otel_fastperf.sql.describe import describe


@pytest.mark.parametrize(
    ("statement", "columns"),
    [
        ("SELECT * FROM t WHERE t.a = $1::INTEGER AND t.b >= 3 AND t.c NOT IN (1, 2)", ["t.a", "t.b", "t.c"]),
        ("SELECT * FROM t JOIN u ON u.id = t.u_id WHERE u.name ILIKE %(name)s", ["u.id", "t.u_id", "u.name"]),
        ("SELECT a, (SELECT count(*) FROM v WHERE v.mail = u.mail) FROM u", ["v.mail", "u.mail"]),
        ("UPDATE t SET a = 1 WHERE b BETWEEN ? AND ? AND b <> 4", ["b"]),
        ('SELECT * FROM "T" WHERE "T"."K" = now()', ["T.K"]),
        ("SELECT * FROM t WHERE lower(t.a) = 'x' OR t.a IS NULL", []),
        ("SELECT * FROM t WHERE t.a = coalesce(?, t.b)", ["t.a"]),
        ("SELECT a = b FROM t ORDER BY c", []),
        ("SELECT * FROM t WHERE $1::INTEGER = t.a AND t.b = $2::numeric(10, 2)", ["t.a", "t.b"]),
        ("SELECT * FROM t WHERE CAST(t.a AS INTEGER) = $1 AND b::date > ? AND ? = c", ["t.a", "b", "c"]),
        ("SELECT * FROM t WHERE t.a = $1::character varying AND b = ANY($2::int[])", ["t.a", "b"]),
        ("SELECT * FROM t WHERE EXISTS (SELECT 1)", []),
    ],
)
def test_columns_compared_by_conditions_are_found(statement: str, columns: list[str]) -> None:
    assert compared_columns(describe(statement, "postgresql").text) == columns


@given(st.text())
def test_any_text_is_read_without_error(text: str) -> None:
    assert isinstance(compared_columns(f"WHERE {text}"), list)


@pytest.mark.parametrize("piece", ["a.", "a", '"', "[a", "a =", "WHERE a.", "a NOT ", "a(", "f(a.", "= a.", "a) "])
def test_reading_columns_takes_linear_time(piece: str) -> None:
    def seconds(text: str) -> float:
        began = time.thread_time()
        compared_columns(text)
        return time.thread_time() - began

    short, long = f"WHERE {piece * 500}", f"WHERE {piece * 4000}"
    assert min(seconds(long) for _ in range(5)) < 24 * min(seconds(short) for _ in range(5)) + 0.001


@pytest.mark.parametrize(
    ("statement", "column"),
    [
        ("SELECT * FROM items WHERE items.order_id = ?", "items.order_id"),
        ('SELECT * FROM items WHERE "items"."order id" = :id', '"items"."order id"'),
        ("SELECT * FROM items JOIN orders ON orders.id = items.order_id WHERE items.name = %(name)s", "items.name"),
        ("SELECT * FROM items WHERE items.deleted IS NULL AND items.order_id = $1", "items.order_id"),
        ("SELECT * FROM items WHERE lower(name) = ? AND price > ?", ""),
        ("SELECT a = ? FROM items", ""),
        ("SELECT * FROM items WHERE $1::INTEGER = items.order_id", "items.order_id"),
        ("SELECT * FROM items WHERE items.order_id = CAST(? AS INTEGER)", "items.order_id"),
    ],
)
def test_a_single_compared_value_has_its_column(statement: str, column: str) -> None:
    assert column_of_one_value(describe(statement, "postgresql").text) == column


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("lower(email) = ?", [("email", "lower", False, "=", "", True)]),
        ("(a.x + a.y) > b.z", [("a.y", "", True, ">", "b.z", False)]),
        ("? = a.x", [("", "", False, "=", "a.x", True)]),
        ("a.x not  in (?)", [("a.x", "", False, "NOT IN", "", False)]),
        ("a.x IS NULL", [("a.x", "", False, "IS NULL", "", False)]),
        ("a.x ~~ ?", [("a.x", "", False, "~~", "", True)]),
        ("data ->> ? AND a.b @> c.d AND f(days => x.y)", []),
    ],
)
def test_each_comparison_has_its_column_and_operator(condition: str, found: list[tuple[object, ...]]) -> None:
    assert [tuple(comparison) for comparison in comparisons(condition)] == found

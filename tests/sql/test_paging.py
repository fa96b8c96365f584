"""Pages by OFFSET: the number of skipped rows, and the keyset condition instead."""

from typing import Any

import pytest

from otel_fastperf.sql.paging import keyset, skipped_rows


@pytest.mark.parametrize(
    ("statement", "parameters", "skipped"),
    [
        ("SELECT a FROM t LIMIT ? OFFSET ?", (20, 5000), 5000),
        ("SELECT a FROM t WHERE b = ? LIMIT ? OFFSET ?", ("x", 20, 5000), 5000),
        ("SELECT a FROM t LIMIT $1::INTEGER OFFSET $2::INTEGER", (20, 5000), 5000),
        ("SELECT a FROM t OFFSET $1::INTEGER LIMIT $2::INTEGER", (5000, 20), 5000),
        ("SELECT a FROM t LIMIT %(param_1)s OFFSET %(param_2)s", {"param_1": 20, "param_2": 5000}, 5000),
        ("SELECT a FROM t LIMIT %(param_1)s::INTEGER OFFSET %(param_2)s::INTEGER", {"param_2": 5000}, 5000),
        ("SELECT a FROM t LIMIT %s OFFSET %s", (20, 5000), 5000),
        ("SELECT a FROM t LIMIT %s, %s", (5000, 20), 5000),
        ("SELECT a FROM t LIMIT :limit OFFSET :offset", {"limit": 20, "offset": 5000}, 5000),
        ("SELECT a FROM t ORDER BY a OFFSET 5000 ROWS FETCH NEXT 20 ROWS ONLY", (), 5000),
        ("SELECT a FROM t LIMIT 20", (), 0),
        ("SELECT a FROM t LIMIT ? OFFSET ?", (20,), 0),
        ("SELECT a FROM t LIMIT ? OFFSET ?", (20, None), 0),
        ("SELECT a FROM t LIMIT ? OFFSET ?", None, 0),
    ],
)
def test_the_skipped_rows_are_known_in_every_style_of_parameters(statement: str, parameters: Any, skipped: int) -> None:
    assert skipped_rows(statement, parameters) == skipped


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("SELECT a FROM t ORDER BY t.id LIMIT ? OFFSET ?", "WHERE t.id > :last ORDER BY t.id LIMIT n"),
        ('SELECT a FROM t ORDER BY "t".at DESC LIMIT ?', "WHERE t.at < :last ORDER BY t.at DESC LIMIT n"),
        ("SELECT a FROM t ORDER BY a, b DESC OFFSET ? ROWS", "WHERE (a, b) > (:last, …) ORDER BY a, b DESC LIMIT n"),
        ("SELECT a FROM t ORDER BY lower(a) LIMIT ? OFFSET ?", "WHERE id > :last ORDER BY id LIMIT n"),
        ("SELECT a FROM t LIMIT ? OFFSET ?", "WHERE id > :last ORDER BY id LIMIT n"),
    ],
)
def test_the_keyset_follows_the_order_of_the_statement(text: str, clauses: str) -> None:
    assert keyset(text) == clauses

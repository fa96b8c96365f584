"""What is known of a statement's rows before it runs."""

import pytest

from otel_fastperf.sql.describe import describe
from otel_fastperf.sql.look_ups import LookUp, finds_one_row


@pytest.mark.parametrize(
    ("text", "one_row"),
    [
        ("SELECT * FROM seats WHERE id = 7", True),
        ("SELECT * FROM seats WHERE kind = 'window'", False),
        ("INSERT INTO visits (page) VALUES (?)", True),
        ("INSERT INTO archive SELECT * FROM visits", False),
    ],
)
def test_a_statement_for_one_row_is_quick_unless_it_waits(text: str, one_row: bool) -> None:
    assert finds_one_row(describe(text), LookUp(unique=frozenset({"id"}))) is one_row

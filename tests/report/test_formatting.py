"""Figures, formatted for people."""

import pytest

from otel_fastperf.report import formatting as words
from otel_fastperf.report.formatting import Paint
from otel_fastperf.report.histograms import Quantile


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0 µs"),
        (0.000042, "42 µs"),
        (0.00099, "990 µs"),
        (0.000999, "1.0 ms"),
        (0.0042, "4.2 ms"),
        (0.00996, "10 ms"),
        (0.0427, "43 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (1.517, "1.52 s"),
        (12.4, "12 s"),
    ],
)
def test_seconds_have_two_or_three_digits_and_a_unit(value: float, expected: str) -> None:
    assert words.seconds(value) == expected


def test_a_quantile_beyond_the_buckets_has_a_comparison_sign() -> None:
    assert words.quantile(Quantile(0.0234)) == "23 ms"
    assert words.quantile(Quantile(0.005, "<")) == "< 5 ms"
    assert words.quantile(Quantile(0.0025, "≤")) == "≤ 2.5 ms"
    assert words.quantile(Quantile(10.0, ">")) == "> 10 s"
    assert words.quantile(None) == "-"


def test_columns_are_aligned_and_long_cells_are_cut() -> None:
    rows = [("GET  /products", "12 ms"), ("GET  /products/{product_id}", "5 ms")]
    assert words.columns(rows, (-16, 6)) == ["GET  /products     12 ms", "GET  /products/…    5 ms"]


def test_without_colour_nothing_is_added() -> None:
    assert Paint(colour=False).red("500") == "500"
    assert Paint(colour=True).red("500") == "\x1b[31m500\x1b[0m"
    assert Paint(colour=True).red("   ") == "   "


def test_lines_break_at_blanks_and_long_words_anywhere() -> None:
    assert words.wrapped("one two three", 7) == ["one two", "three"]
    assert words.wrapped("a abcdefgh b", 3) == ["a", "abc", "def", "gh", "b"]
    assert words.wrapped("漢字漢字", 5) == ["漢字", "漢字"]
    assert words.wrapped("", 5) == [""]

"""Figures as people read them."""

import pytest

from demo import text
from demo.figures import Quantile
from demo.text import Paint


@pytest.mark.parametrize(
    ("value", "words"),
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
def test_seconds_have_two_or_three_digits_and_a_unit(value: float, words: str) -> None:
    assert text.seconds(value) == words


def test_a_quantile_says_what_buckets_cannot_tell() -> None:
    assert text.quantile(Quantile(0.0234)) == "23 ms"
    assert text.quantile(Quantile(0.005, "<")) == "< 5 ms"
    assert text.quantile(Quantile(0.0025, "≤")) == "≤ 2.5 ms"
    assert text.quantile(Quantile(10.0, ">")) == "> 10 s"
    assert text.quantile(None) == "-"


def test_columns_line_up_and_long_cells_are_cut() -> None:
    rows = [("GET  /products", "12 ms"), ("GET  /products/{product_id}", "5 ms")]
    assert text.columns(rows, (-16, 6)) == ["GET  /products     12 ms", "GET  /products/…    5 ms"]


def test_a_sparkline_goes_from_low_to_high() -> None:
    assert text.sparkline([1, 2, 3]) == "▁▅█"
    assert text.sparkline([0.5, 0.5]) == "▁▁"
    assert text.sparkline([0.0, 0.5, 1.0], low=0.0, high=1.0) == "▁▅█"
    assert text.sparkline([]) == ""


def test_without_colour_nothing_is_added() -> None:
    assert Paint(colour=False).red("500") == "500"
    assert Paint(colour=True).red("500") == "\x1b[31m500\x1b[0m"
    assert Paint(colour=True).red("   ") == "   "

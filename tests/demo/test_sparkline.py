"""A curve as one line of text."""

from demo.sparkline import sparkline


def test_a_sparkline_goes_from_low_to_high() -> None:
    assert sparkline([1, 2, 3]) == "▁▅█"
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline([0.0, 0.5, 1.0], low=0.0, high=1.0) == "▁▅█"
    assert sparkline([]) == ""

"""Quantiles are those that Prometheus would compute from the same samples."""

import pytest

from otel_fastperf.report.histograms import Histogram, Quantile

INFINITY = float("inf")


def test_a_quantile_is_interpolated_like_histogram_quantile() -> None:
    # promtool test rules: histogram_quantile(0.5, …) of these buckets is 0.4, of 0.9 it is 0.88
    histogram = Histogram((0.1, 1.0, INFINITY), (2.0, 8.0, 8.0), 3.0)
    median, high = histogram.quantile(0.5), histogram.quantile(0.9)
    assert (median and median.value, high and high.value) == pytest.approx((0.4, 0.88))
    assert histogram.mean == 0.375


def test_a_quantile_beyond_the_buckets_is_marked() -> None:
    histogram = Histogram((0.1, 1.0, INFINITY), (2.0, 3.0, 4.0), 9.0)
    assert histogram.quantile(0.25) == Quantile(0.1, "<")
    assert histogram.quantile(0.99) == Quantile(1.0, ">")
    assert histogram.highest == Quantile(1.0, ">")
    assert Histogram((0.1, 1.0, INFINITY), (2.0, 3.0, 3.0), 9.0).highest == Quantile(1.0, "≤")
    assert Histogram((0.1, 1.0, INFINITY), (2.0, 2.0, 2.0), 0.1).highest == Quantile(0.1, "≤")

"""The summary has the values that Prometheus would compute from the same scrapes."""

import pytest

from demo.scrapes import Page, Window
from otel_fastperf.report.histograms import Histogram

INFINITY = float("inf")

BEFORE = """\
# HELP wait_seconds Waits.
# TYPE wait_seconds histogram
wait_seconds_bucket{le="0.1",pool="a"} 5
wait_seconds_bucket{le="1.0",pool="a"} 5
wait_seconds_bucket{le="+Inf",pool="a"} 5
wait_seconds_count{pool="a"} 5
wait_seconds_sum{pool="a"} 0.25
# TYPE busy_seconds_total counter
busy_seconds_total 10.0
# TYPE threads gauge
threads 4
"""
AFTER = """\
# TYPE wait_seconds histogram
wait_seconds_bucket{le="0.1",pool="a"} 6
wait_seconds_bucket{le="1.0",pool="a"} 9
wait_seconds_bucket{le="+Inf",pool="a"} 9
wait_seconds_count{pool="a"} 9
wait_seconds_sum{pool="a"} 2.25
wait_seconds_bucket{le="0.1",pool="b"} 0
wait_seconds_bucket{le="1.0",pool="b"} 0
wait_seconds_bucket{le="+Inf",pool="b"} 2
wait_seconds_count{pool="b"} 2
wait_seconds_sum{pool="b"} 7
# TYPE busy_seconds_total counter
busy_seconds_total 11.0
# TYPE threads gauge
threads 3
"""


@pytest.fixture
def window() -> Window:
    return Window([0.0, 4.0], [Page(BEFORE), Page(AFTER)])


def test_only_observations_within_the_window_count(window: Window) -> None:
    waits = window.histograms("wait_seconds", "pool")
    assert waits["a",] == Histogram((0.1, 1.0, INFINITY), (1.0, 4.0, 4.0), 2.0)
    assert waits["b",] == Histogram((0.1, 1.0, INFINITY), (0.0, 0.0, 2.0), 7.0)
    assert window.histogram("wait_seconds") == Histogram((0.1, 1.0, INFINITY), (1.0, 4.0, 6.0), 9.0)
    assert window.histogram("wait_seconds", pool="b").count == 2
    assert window.increase("busy_seconds_total") == {(): 1.0}
    assert window.rates("busy_seconds_total") == [0.25]
    assert window.values("threads") == [4.0, 3.0]


def test_a_metric_that_is_not_on_the_page_is_empty(window: Window) -> None:
    assert window.histogram("nothing_seconds") == Histogram((), (), 0.0)
    assert window.histogram("nothing_seconds").quantile(0.5) is None
    assert window.histogram("nothing_seconds").mean is None
    assert window.values("nothing") == []
    assert window.rates("nothing_total") == [0.0]

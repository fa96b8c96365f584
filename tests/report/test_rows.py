"""The report of several workers: a row for each, the one that stands out, the one that does not answer."""

from dataclasses import replace

import pytest

from otel_fastperf.report.formats import report_as
from otel_fastperf.report.model import Report
from otel_fastperf.report.rows import together
from tests.reports import SHOP, WORKER

CALM = replace(WORKER, number=0, pid=11, sentence="Nothing stands out; 91 MiB resident", loop_utilization=0.1)
BUSY = replace(WORKER, number=1, pid=12, loop_utilization=0.9)
SILENT = replace(CALM, number=2, pid=13, silent_seconds=12.0)


@pytest.fixture
def report() -> Report:
    workers = (CALM, BUSY, SILENT)
    return replace(SHOP, worker=together(WORKER, workers), workers=workers)


@pytest.mark.parametrize("form", ["text", "html"])
def test_each_worker_has_a_row_and_the_silent_one_is_named(form: str, report: Report) -> None:
    said = " ".join(report_as(report, form).split())
    assert all(f"worker {number}" in said for number in (0, 1, 2))
    assert "3 workers, measured for" in said
    assert "orker 2 (pid 13) does not answer: its figures are 12 s old" in said


def test_the_busiest_worker_stands_for_all(report: Report) -> None:
    assert report.worker.loop_utilization == 0.9
    assert "worker 1 (pid 12): code held the event loop for 3.6 s" in report.worker.sentence
    assert report.worker.sentence.endswith("the other 2 workers: nothing stands out")


def test_the_rows_are_in_the_json(report: Report) -> None:
    assert Report.from_json(report.to_json()).workers == report.workers


def test_a_service_in_one_process_has_no_rows() -> None:
    assert "worker 0" not in report_as(SHOP, "text")
    assert 'id="workers"' not in report_as(SHOP, "html")

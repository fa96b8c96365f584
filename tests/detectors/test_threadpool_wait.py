"""`threadpool_wait`: waits above the threshold, with the limit and a remedy that fits it."""

from otel_fastperf.detectors.threadpool_wait import ThreadWait, detect_threadpool_wait
from otel_fastperf.findings import CallSite
from otel_fastperf.settings import ThreadsSettings

SITE = CallSite("/srv/shop/labels.py", 7, "print_label")


def test_the_finding_has_wait_limit_and_number_of_waiting_requests() -> None:
    (finding,) = detect_threadpool_wait(ThreadWait(0.25, 40, 7, SITE), ThreadsSettings())
    assert finding.message == "A request waited 0.250 s for one of 40 threads, all of them busy; 7 more wait."
    assert "total_tokens = 80" in finding.remedy
    assert finding.call_site == SITE
    assert finding.evidence == {"wait_seconds": 0.25, "limit": 40, "waiting": 7}


def test_a_wait_below_the_threshold_is_not_reported() -> None:
    assert not list(detect_threadpool_wait(ThreadWait(0.049, 40, 0, SITE), ThreadsSettings()))
    assert list(detect_threadpool_wait(ThreadWait(0.049, 40, 0, SITE), ThreadsSettings(wait=0.04)))

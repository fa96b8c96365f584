"""`threadpool_wait`: waits above the threshold, what occupied the threads, and a remedy that fits it."""

from otel_fastperf.detectors.threadpool_wait import Occupant, ThreadWait, detect_threadpool_wait
from otel_fastperf.findings import CallSite
from otel_fastperf.settings import ThreadsSettings

PRINT = CallSite("/srv/shop/labels.py", 34, "wait_for_printer")
EXPORT = CallSite("/srv/shop/export.py", 12, "export")
OCCUPANTS = (Occupant("print_label", 38, PRINT, "GET /label"), Occupant("export", 2, EXPORT))


def test_the_finding_names_what_occupied_the_threads() -> None:
    (finding,) = detect_threadpool_wait(ThreadWait(0.25, 40, 7, OCCUPANTS), ThreadsSettings())
    assert finding.message == (
        "A request waited 0.250 s for one of 40 threads, all of them busy, 38 in print_label (GET /label) at"
        " shop/labels.py:34 in wait_for_printer; 2 in export at shop/export.py:12 in export; 7 more wait."
    )
    assert finding.remedy.startswith(
        "Free the threads that print_label (GET /label) occupies: if it waits at shop/labels.py:34 in wait_for_printer,"
    )
    assert "total_tokens = 80" in finding.remedy
    assert finding.call_site == PRINT
    assert finding.evidence["occupants"] == (
        "38 in print_label (GET /label) at shop/labels.py:34 in wait_for_printer",
        "2 in export at shop/export.py:12 in export",
    )


def test_no_line_is_blamed_if_none_was_seen() -> None:
    (finding,) = detect_threadpool_wait(ThreadWait(0.75, 40, 0), ThreadsSettings())
    assert finding.message == "A request waited 0.750 s for one of 40 threads, all of them busy."
    assert finding.call_site is None
    assert finding.remedy.startswith("Find the `def` endpoints and dependencies that take long")


def test_a_wait_below_the_threshold_is_not_reported() -> None:
    assert not list(detect_threadpool_wait(ThreadWait(0.049, 40, 0, OCCUPANTS), ThreadsSettings()))
    assert list(detect_threadpool_wait(ThreadWait(0.049, 40, 0, OCCUPANTS), ThreadsSettings(wait=0.04)))


def test_a_short_wait_for_threads_that_the_application_does_not_occupy_is_not_reported() -> None:
    """The threads are about to be free, and the machine lets them wait."""
    assert not list(detect_threadpool_wait(ThreadWait(0.25, 40, 0, OCCUPANTS[1:]), ThreadsSettings()))


def test_a_wait_that_happened_once_has_to_be_longer() -> None:
    assert list(detect_threadpool_wait(ThreadWait(0.06, 40, 0, OCCUPANTS), ThreadsSettings()))
    assert not list(detect_threadpool_wait(ThreadWait(0.06, 40, 0, OCCUPANTS, repeated=False), ThreadsSettings()))
    assert list(detect_threadpool_wait(ThreadWait(0.25, 40, 0, OCCUPANTS, repeated=False), ThreadsSettings()))

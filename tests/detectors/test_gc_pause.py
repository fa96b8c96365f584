"""Which pauses of the garbage collector yield a finding, and its text."""

import pytest

from otel_fastperf.detectors.gc_pause import Pause, detect_gc_pause
from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.settings import MemorySettings

SETTINGS = MemorySettings(gc_pause=0.05)
LINE = CallSite("/srv/shop/reports.py", 88, "sales")


def pause(seconds: float = 0.08, *, explicit: bool = False, site: CallSite | None = LINE) -> Pause:
    return Pause(generation=2, seconds=seconds, cpu_seconds=seconds, collected=1200, explicit=explicit, site=site)


def found(*pauses: Pause, share: float = 0.01) -> list[Finding]:
    return list(detect_gc_pause(pauses, share, SETTINGS))


def test_without_pauses_there_is_no_finding() -> None:
    assert found() == []


def test_pauses_below_the_threshold_yield_no_finding_however_many() -> None:
    assert found(*[pause(0.049)] * 100) == []


def test_a_pause_during_which_the_thread_did_not_run_yields_no_finding() -> None:
    assert found(pause(0.3)._replace(cpu_seconds=0.02)) == []


def test_an_explicit_collection_is_attributed_to_its_line() -> None:
    (finding,) = found(pause(explicit=True))
    assert (finding.kind, finding.severity, finding.subject) == ("gc_pause", Severity.WARNING, "gc.collect()")
    assert finding.call_site == LINE
    assert finding.message == (
        "`gc.collect()` stopped the whole process for 80 ms and freed 1,200 objects; the collector took 1.0% of the"
        " last minute."
    )
    assert finding.remedy.startswith("Remove the `gc.collect()` at shop/reports.py:88 in sales")


def test_an_automatic_collection_is_attributed_to_no_line() -> None:
    """Otherwise every line that happens to allocate would get a finding of its own."""
    (finding,) = found(pause())
    assert (finding.subject, finding.call_site) == ("generation 2", None)
    assert finding.evidence["allocating"] == "shop/reports.py:88 in sales"
    assert "gc.freeze()" in finding.remedy
    assert "gc.set_threshold(50_000, 20, 100)" in finding.remedy


def test_the_pauses_of_a_request_are_one_finding_about_the_explicit_one() -> None:
    """Code that creates many objects and then collects causes pauses of both kinds, but has one fault."""
    (finding,) = found(pause(0.3), pause(0.06, explicit=True), pause(0.01))
    assert finding.call_site == LINE
    assert (finding.evidence["pauses"], finding.evidence["pause_seconds"]) == (2, 0.06)
    assert finding.seconds == pytest.approx(0.36)


@pytest.mark.parametrize(("seconds", "share"), [(1.0, 0.01), (0.06, 0.1)])
def test_a_second_or_a_tenth_of_the_last_minute_is_critical(seconds: float, share: float) -> None:
    (finding,) = found(pause(seconds), share=share)
    assert finding.severity is Severity.CRITICAL


def test_an_explicit_collection_by_a_library_has_no_line() -> None:
    (finding,) = found(pause(explicit=True, site=None))
    assert finding.call_site is None
    assert finding.remedy.startswith("Remove the `gc.collect()`: ")

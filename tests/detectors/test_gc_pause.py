"""Which pauses of the garbage collector yield a finding, and its text."""

import pytest

from otel_fastperf.detectors.gc_pause import Allocations, Pause, Recent, detect_gc_pause
from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.settings import MemorySettings

SETTINGS = MemorySettings(gc_pause=0.05)
LINE = CallSite("/srv/shop/reports.py", 88, "sales")


def pause(seconds: float = 0.08, *, explicit: bool = False, site: CallSite | None = LINE) -> Pause:
    return Pause(generation=2, seconds=seconds, cpu_seconds=seconds, collected=1200, explicit=explicit, site=site)


def found(*pauses: Pause, share: float = 0.04, long: int = 3, in_request: bool = True) -> list[Finding]:
    return list(detect_gc_pause(pauses, Recent(share, long, 0.1), SETTINGS, in_request=in_request))


def test_without_pauses_there_is_no_finding() -> None:
    assert found() == []


def test_pauses_below_the_threshold_yield_no_finding_however_many() -> None:
    assert found(*[pause(0.049)] * 100) == []


def test_a_pause_during_which_the_thread_did_not_run_yields_no_finding() -> None:
    assert found(pause(0.3)._replace(cpu_seconds=0.02)) == []


def test_a_full_collection_of_every_service_yields_no_finding() -> None:
    """Even a bare app with SQLAlchemy has one or two, of some 100 ms, after its start."""
    assert found(pause(0.117), long=2, share=0.04) == []
    assert found(pause(0.117), long=5, share=0.02) == []


def test_a_share_of_little_cpu_time_counts_too() -> None:
    """On a busy machine a process that does nothing but collect may get a tenth of a processor."""
    for share, cpu_share, number in ((0.02, 0.3, 1), (0.005, 0.9, 0), (0.02, 0.1, 0)):
        recent = Recent(share, 3, cpu_share)
        assert len(list(detect_gc_pause([pause()], recent, SETTINGS, in_request=True))) == number


def test_an_explicit_collection_in_a_request_is_always_a_finding() -> None:
    assert len(found(pause(explicit=True), long=1, share=0.001)) == 1


def test_an_explicit_collection_outside_of_requests_is_a_finding_if_it_repeats() -> None:
    """One before `gc.freeze()` is good practice."""
    assert found(pause(explicit=True), long=1, share=0.001, in_request=False) == []
    assert len(found(pause(explicit=True), long=3, share=0.01, in_request=False)) == 1


def test_an_explicit_collection_is_attributed_to_its_line() -> None:
    (finding,) = found(pause(explicit=True))
    assert (finding.kind, finding.severity, finding.subject) == ("gc_pause", Severity.WARNING, "gc.collect()")
    assert finding.call_site == LINE
    assert finding.message == (
        "`gc.collect()` stopped the whole process for 80 ms and freed 1,200 objects; the collector took 4.0% of the"
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


@pytest.mark.parametrize(("seconds", "share"), [(1.0, 0.04), (0.06, 0.1)])
def test_a_second_or_a_tenth_of_the_last_minute_is_critical(seconds: float, share: float) -> None:
    (finding,) = found(pause(seconds), share=share)
    assert finding.severity is Severity.CRITICAL


def test_an_explicit_collection_by_a_library_has_no_line() -> None:
    (finding,) = found(pause(explicit=True, site=None))
    assert finding.call_site is None
    assert finding.remedy.startswith("Remove the `gc.collect()`: ")


def test_a_share_of_time_that_is_a_small_share_of_the_cpu_time_is_a_busy_machine_s() -> None:
    allocations = Allocations(6, 0, LINE)
    recent = Recent(0.035, 9, 0.07)
    assert list(detect_gc_pause([pause()], recent, SETTINGS, in_request=True, allocations=allocations)) == []


def wasted(number: int, share: float = 0.03, cpu_share: float = 0.2) -> list[Finding]:
    recent, allocations = Recent(share, number, cpu_share), Allocations(number, number, LINE)
    return list(detect_gc_pause([pause()], recent, SETTINGS, in_request=True, allocations=allocations))


def test_a_route_whose_garbage_only_the_collector_frees_needs_two_full_collections() -> None:
    """With a big heap Python collects it seldom: there may be no third one in a minute."""
    (finding,) = wasted(2)
    assert finding.call_site == LINE
    assert "in cycles" in finding.remedy
    assert wasted(1) == []


def test_two_collections_that_take_a_small_share_yield_no_finding_whatever_they_free() -> None:
    assert wasted(2, share=0.005) == []
    assert wasted(2, cpu_share=0.05) == []


def test_two_full_collections_that_free_little_yield_no_finding() -> None:
    recent = Recent(0.04, 2, 0.3)
    assert list(detect_gc_pause([pause()], recent, SETTINGS, in_request=True, allocations=Allocations(2))) == []


def test_a_route_that_starts_most_collections_is_told_to_make_fewer_objects() -> None:
    allocations = Allocations(4, 0, LINE, by_framework=True)
    (finding,) = detect_gc_pause([pause()], Recent(0.04, 5, 0.1), SETTINGS, in_request=True, allocations=allocations)
    assert finding.call_site == LINE
    assert finding.message.endswith("Objects that this route makes started 4 of its 5 long collections.")
    assert "columns instead of entities" in finding.remedy
    assert "gc.freeze()" in finding.remedy

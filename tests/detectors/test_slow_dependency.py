"""`slow_dependency`: a peer that answers slowly, request after request."""

from math import inf

from otel_fastperf.detectors.recurrence import Recurrence
from otel_fastperf.detectors.slow_dependency import SlowDependencies
from otel_fastperf.findings import CallSite, Finding
from otel_fastperf.requests.calls import Call, CallFacts, RequestCalls
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import ClientsSettings
from tests.detectors.records import ended

LINE = CallSite("/srv/shop/me.py", 36, "me")
FACTS = CallFacts(Cause.HTTP_CLIENT, "http", "users.example", "GET", ("users", "{}"))


def asked(number: int, seconds: float, own: float, starved: float = 0.0, answer: float = inf) -> RequestRecord:
    """The request `number` of a route, which makes one call."""
    record, calls = ended(), RequestCalls()
    record.started, record.ended, record.starved = 10.0 * number, 10.0 * number + seconds + 0.01, starved
    group = calls.group(FACTS)
    assert group is not None
    group.add(FACTS, record.started, record.started + seconds, 1, answer)
    if own >= 0.05:
        calls.long.append(Call(group, record.started, record.started + seconds, own, 1, (LINE,), failed=False))
    record.calls = calls
    return record


def found(*requests: tuple[float, ...]) -> list[Finding]:
    settings = ClientsSettings()
    detector = SlowDependencies(settings, Recurrence())
    return [finding for number, each in enumerate(requests) for finding in detector(asked(number, *each))]


def test_a_peer_that_is_slow_for_several_requests_is_found() -> None:
    first, *_ = found(*[(0.4, 0.4, 0.0)] * 5)
    assert (first.subject, first.call_site) == ("users.example", LINE)
    assert "took 0.400 s" in first.message


def test_what_a_busy_machine_may_explain_is_no_finding() -> None:
    assert found(*[(0.4, 0.2, 0.2)] * 7) == []
    # it answered faster now and then
    assert found(*([(0.4, 0.2, 0.2)] * 7 + [(0.06, 0.06, 0.0)]) * 3) == []
    assert found(*([(0.4, 0.2, 0.2)] * 7 + [(0.01, 0.01, 0.0)]) * 3) == []


def test_a_peer_that_never_answered_faster_is_slow_on_a_busy_machine_too() -> None:
    (finding, *_) = found(*[(0.4, 0.2, 0.2)] * 12)
    assert "took 0.400 s" in finding.message
    assert finding.evidence["share"] > 0.9  # type: ignore[operator]


def test_an_answer_that_waits_for_the_loop_in_each_request_is_no_finding() -> None:
    assert found(*[(0.4, 0.0, 0.0, 0.02)] * 12) == []

"""A trace as a waterfall: indented, to scale, repeats folded."""

from demo.span_route import SpanRecord
from demo.waterfall import BAR, MOST_LINES, NAME, Trace, slowest, traces, waterfall
from otel_fastperf.report.formatting import TIMES, Paint

MS = 1_000_000
PLAIN = Paint(colour=False)


def span(
    number: int, parent: int, name: str, start: float, end: float, kind: str = "CLIENT", error: str = "", trace: int = 1
) -> SpanRecord:
    """Start and end in ms."""
    parent_id, times = f"{parent:016x}" if parent else "", (int(start * MS), int(end * MS))
    is_statement = kind == "CLIENT" and name not in {"COMMIT", "GET"}
    return SpanRecord(f"{trace:032x}", f"{number:016x}", parent_id, name, kind, *times, error, is_statement)


def request(
    *below: SpanRecord, name: str = "GET /orders", milliseconds: float = 44.0, error: str = "", trace: int = 1
) -> Trace:
    root = span(1, 0, name, 0, milliseconds, "SERVER", error, trace)
    (only,) = traces([*below, root])
    return only


def test_each_span_has_a_line_with_its_name_its_bar_and_its_time() -> None:
    lines = waterfall(request(span(2, 1, "SELECT orders", 11, 33)), PLAIN)
    assert lines == [
        f"{'GET /orders':<{NAME}}  {'█' * BAR}     44 ms",
        f"{'  SELECT orders':<{NAME}}  {' ' * 11}{'█' * 22}{' ' * 11}     22 ms",
    ]


def test_repeated_statements_are_one_line_with_their_total_time() -> None:
    repeats = [span(10 + number, 1, "SELECT items", 2 + number * 4, 3 + number * 4) for number in range(10)]
    lines = waterfall(request(span(2, 1, "SELECT orders", 0, 2), *repeats), PLAIN)
    assert len(lines) == 3
    assert lines[2].startswith(f"  SELECT items {TIMES}10 ")
    assert lines[2].endswith("▒          10 ms")
    assert lines[2].count("▒") == 37


def test_two_equal_spans_are_not_folded_nor_are_spans_with_children() -> None:
    twice = [span(2, 1, "SELECT orders", 0, 2), span(3, 1, "SELECT orders", 2, 4)]
    assert len(waterfall(request(*twice), PLAIN)) == 3

    parents = [span(2 + number, 1, "load", number, number + 1, "INTERNAL") for number in range(3)]
    children = [span(12 + number, 2 + number, "SELECT orders", number, number + 1) for number in range(3)]
    lines = waterfall(request(*parents, *children), PLAIN)
    assert [line.split("  █")[0].rstrip() for line in lines[1:3]] == ["  load", "    SELECT orders"]
    assert len(lines) == 7


def test_a_long_trace_is_cut_off_with_a_note() -> None:
    many = [span(2 + number, 1, f"SELECT table{number}", number, number + 1) for number in range(30)]
    lines = waterfall(request(*many), PLAIN)
    assert len(lines) == MOST_LINES + 1
    assert lines[-1] == "  … and 21 more lines"


def test_a_failed_span_shows_its_error() -> None:
    assert waterfall(request(error="WarehouseError"), PLAIN)[0].endswith("44 ms  WarehouseError")


def test_a_span_that_outlives_the_response_shortens_the_request_s_bar() -> None:
    lines = waterfall(request(span(2, 1, "send_confirmation", 44, 88, "INTERNAL")), PLAIN)
    assert lines[0].count("█") == lines[1].count("█") == BAR // 2


def test_commits_and_calls_of_other_services_are_no_statements() -> None:
    trace = request(span(2, 1, "SELECT orders", 0, 2), span(3, 1, "COMMIT", 2, 4), span(4, 1, "GET", 4, 8))
    assert trace.statements == 1


def test_the_slowest_of_each_route_are_shown_slowest_first() -> None:
    times = {1: ("GET /a", 10.0), 2: ("GET /a", 30.0), 3: ("GET /b", 20.0), 4: ("GET /c", 5.0)}
    found = [request(name=name, milliseconds=time, trace=trace) for trace, (name, time) in times.items()]
    assert [(trace.root.name, trace.root.seconds) for trace in slowest(found, 2)] == [
        ("GET /a", 0.03),
        ("GET /b", 0.02),
    ]

"""`blocking_call`: what is reported about code that blocked the event loop, and when nothing is."""

from typing import Any

import pytest

from otel_fastperf.detectors.blocking_call import BlockedLoop, detect_blocking_call
from otel_fastperf.event_loop.cause import BlockedBy
from otel_fastperf.event_loop.stack_sampler import Coroutine, LoopWork
from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.settings import LoopSettings

LINE = CallSite("/srv/shop/bank.py", 41, "fetch_rate")
OUTER = CallSite("/srv/shop/orders.py", 12, "price")


def found(
    cause: BlockedBy, *, seconds: float = 0.15, call_site: CallSite | None = LINE, waiting: int = 7, **facts: Any
) -> list[Finding]:
    blocked = BlockedLoop(
        seconds=seconds,
        cause=cause,
        call_site=call_site,
        frames=(LINE, OUTER),
        route="/orders",
        waiting=waiting,
        **facts,
    )
    return list(detect_blocking_call(blocked, LoopSettings()))


def test_what_other_kinds_report_is_no_blocking_call() -> None:
    assert found(BlockedBy.CPU, seconds=0.5, work=LoopWork.IN_DATABASE) == []
    assert found(BlockedBy.CPU, seconds=0.5, on_rows=True) == []


def test_a_long_list_that_is_serialized_gets_pages() -> None:
    (finding,) = found(BlockedBy.CPU, work=LoopWork.SERIALIZING)
    assert finding.remedy.startswith("Return fewer rows from fetch_rate: page the list.")


def test_a_blocking_call_is_reported_with_line_cause_and_waiting_requests() -> None:
    (finding,) = found(BlockedBy.SYNC_IO)
    assert finding.kind == "blocking_call"
    assert finding.severity is Severity.WARNING
    assert finding.message == "Code blocked the event loop for 0.15 s (sync_io); 7 other requests waited."
    assert (finding.subject, finding.call_site, finding.route) == ("fetch_rate", LINE, "/orders")
    assert finding.seconds == 0.15
    assert finding.evidence == {
        "seconds": 0.15,
        "cause": "sync_io",
        "frames": ("shop/bank.py:41 in fetch_rate", "shop/orders.py:12 in price"),
        "waiting_requests": 7,
    }


@pytest.mark.parametrize(
    ("cause", "named"),
    [
        (BlockedBy.SYNC_IO, "Await an async client"),
        (BlockedBy.SYNC_IO, "asyncio.to_thread"),
        (BlockedBy.CPU, "ProcessPoolExecutor"),
        (BlockedBy.CPU, "asyncio.to_thread"),
        (BlockedBy.GIL_HELD, "a thread does not help"),
    ],
)
def test_the_remedy_fits_the_cause(cause: BlockedBy, named: str) -> None:
    (finding,) = found(cause)
    assert named in finding.remedy
    assert "fetch_rate" in finding.remedy


@pytest.mark.parametrize(("seconds", "severity"), [(0.99, Severity.WARNING), (1.0, Severity.CRITICAL)])
def test_a_block_of_a_second_is_critical(seconds: float, severity: Severity) -> None:
    (finding,) = found(BlockedBy.CPU, seconds=seconds)
    assert finding.severity is severity


def test_one_waiting_request_is_in_the_singular() -> None:
    (finding,) = found(BlockedBy.CPU, waiting=1)
    assert finding.message.endswith("; 1 other request waited.")


def test_a_block_below_the_threshold_is_not_reported() -> None:
    assert found(BlockedBy.CPU, seconds=0.099) == []


def test_a_pause_of_the_garbage_collector_is_another_kind() -> None:
    assert found(BlockedBy.GC, seconds=2.0) == []


def test_time_that_is_not_the_code_s_fault_does_not_count() -> None:
    assert found(BlockedBy.CPU, seconds=0.15, lost=0.06) == []
    assert found(BlockedBy.CPU, seconds=0.15, lost=0.04)


def test_a_synchronous_statement_is_another_kind() -> None:
    assert found(BlockedBy.SYNC_IO, work=LoopWork.IN_DATABASE) == []


def test_other_threads_are_blamed_without_a_line() -> None:
    (finding,) = found(BlockedBy.GIL_HELD, call_site=None, seconds=1.5, by_others=True)
    assert finding.message.startswith("Other threads kept the GIL from the event loop for 1.50 s")
    assert finding.subject == "event loop"
    assert "`def` endpoints" in finding.remedy


@pytest.mark.parametrize("cause", [BlockedBy.DESCHEDULED, BlockedBy.GIL_HELD])
def test_a_block_by_a_busy_machine_or_process_is_no_finding(cause: BlockedBy) -> None:
    assert found(cause, seconds=0.9, call_site=None) == []


def test_a_process_stopped_for_a_second_is_a_finding_without_a_line_if_it_happens_often() -> None:
    assert found(BlockedBy.DESCHEDULED, seconds=1.5, call_site=None) == []
    assert found(BlockedBy.DESCHEDULED, seconds=0.9, call_site=None, repeated=True) == []
    assert len(found(BlockedBy.DESCHEDULED, seconds=5.5, call_site=None)) == 1
    (finding,) = found(BlockedBy.DESCHEDULED, seconds=1.5, call_site=None, repeated=True)
    assert finding.message.startswith("The event loop got no processor for 1.50 s (descheduled)")
    assert finding.subject == "process"
    assert (finding.call_site, finding.method, finding.route) == (None, "", "")
    assert "CPU limit" in finding.remedy


ENDPOINT = Coroutine(OUTER, "endpoint", awaits=False)
DEPENDENCY = Coroutine(CallSite("/srv/shop/auth.py", 9, "current_user"), "dependency", awaits=False)


def remedy(cause: BlockedBy, code: str = "", **facts: Any) -> str:
    (finding,) = found(cause, code=code, **facts)
    return finding.remedy


def test_the_coroutine_that_calls_is_named() -> None:
    (finding,) = found(BlockedBy.SYNC_IO, coroutine=DEPENDENCY)
    assert "called by the dependency current_user at shop/auth.py:9;" in finding.message
    assert finding.evidence["coroutine"] == "shop/auth.py:9 in current_user"


def test_only_what_is_a_coroutine_is_to_become_a_function() -> None:
    assert "make the endpoint `def`" in remedy(BlockedBy.SYNC_IO, coroutine=ENDPOINT)
    assert "make the dependency current_user `def`" in remedy(BlockedBy.SYNC_IO, coroutine=DEPENDENCY)
    for coroutine in (None, Coroutine(OUTER, "", awaits=False)):
        assert "`def`" not in remedy(BlockedBy.SYNC_IO, coroutine=coroutine)


@pytest.mark.parametrize(
    ("library", "code", "named"),
    [
        ("", "time.sleep(0.3)", "asyncio.sleep"),
        ("requests.api.post", "answer = requests.post(url)", "httpx.AsyncClient"),
        ("urllib.request.urlopen", "with urlopen(url) as answer:", "httpx.AsyncClient"),
        ("httpx._api.get", "return httpx.get(url).json()", "httpx.AsyncClient"),
        ("redis.commands.core.get", "return cache.get(key)", "redis.asyncio"),
        ("botocore.client._api_call", "bucket.put_object(Key=key)", "aioboto3"),
        ("subprocess.run", "subprocess.run(['convert', path])", "create_subprocess_exec"),
        ("socket.getaddrinfo", "socket.getaddrinfo(host, 443)", "getaddrinfo"),
        ("pathlib.read_text", "path.read_text()", "anyio"),
        ("", "content = open(path).read()", "anyio"),
        ("threading.acquire", "with lock:", "asyncio's own lock"),
    ],
)
def test_a_call_that_waits_is_replaced_by_its_async_counterpart(library: str, code: str, named: str) -> None:
    text = remedy(BlockedBy.SYNC_IO, code, library=library, coroutine=ENDPOINT)
    assert named in text
    assert "asyncio.to_thread" in text


@pytest.mark.parametrize(
    ("cause", "code", "named"),
    [
        (BlockedBy.CPU, "hashlib.pbkdf2_hmac('sha256', password, salt, 600_000)", "a thread is enough"),
        (BlockedBy.CPU, "bcrypt.hashpw(password, salt)", "to_thread"),
        (BlockedBy.GIL_HELD, "body = json.dumps(rows)", "page or stream"),
        (BlockedBy.GIL_HELD, "if PATTERN.match(text):", "regular expression"),
    ],
)
def test_the_remedy_of_a_computation_fits_what_is_computed(cause: BlockedBy, code: str, named: str) -> None:
    assert named in remedy(cause, code, coroutine=ENDPOINT)


def test_a_log_handler_that_blocks_writes_in_a_thread() -> None:
    text = remedy(BlockedBy.SYNC_IO, "self.file.flush()", work=LoopWork.LOGGING, coroutine=ENDPOINT)
    assert "QueueHandler" in text
    assert "QueueListener" in text
    assert "await" not in text


def test_a_large_request_is_to_be_bounded() -> None:
    assert "bound the body" in remedy(BlockedBy.CPU, work=LoopWork.READING)


def test_a_library_s_coroutine_that_blocks_is_awaited_already() -> None:
    text = remedy(BlockedBy.SYNC_IO, coroutine=Coroutine(LINE, "endpoint", awaits=True), library="slowlib.client.get")
    assert text.startswith("`slowlib.client.get` is awaited in fetch_rate, but blocks inside")


def test_without_a_line_only_a_long_block_is_a_finding() -> None:
    """Frameworks and libraries do some work once, for the first request."""
    assert found(BlockedBy.CPU, seconds=0.9, call_site=None) == []
    (finding,) = found(BlockedBy.CPU, seconds=1.5, call_site=None, library="json.encoder.iterencode")
    assert finding.message.startswith(
        "Code in `json.encoder.iterencode` blocked the event loop for 1.50 s (cpu); no line of the application was seen"
    )


def test_what_a_library_computes_again_and_again_is_a_finding_without_a_line() -> None:
    (finding,) = found(BlockedBy.GIL_HELD, seconds=0.3, call_site=None, repeated=True)
    assert finding.message.startswith("A call into C code blocked the event loop for 0.30 s (gil_held)")
    assert found(BlockedBy.GIL_HELD, seconds=0.3, call_site=None, repeated=True, by_others=True) == []


def test_a_call_into_c_code_without_a_line_is_not_told_as_one_of_other_threads() -> None:
    (finding,) = found(BlockedBy.GIL_HELD, seconds=1.5, call_site=None)
    assert finding.message.startswith("A call into C code blocked the event loop for 1.50 s (gil_held)")


def test_imports_by_the_first_request_are_a_finding_if_they_take_long() -> None:
    assert found(BlockedBy.CPU, seconds=0.9, work=LoopWork.IMPORTING) == []
    assert "when the service starts" in remedy(BlockedBy.CPU, seconds=2.0, work=LoopWork.IMPORTING)

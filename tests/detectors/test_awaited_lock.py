"""`lock_wait` of locks in the process: the line that waits, and what is done inside the block of the lock."""

from pathlib import Path

import pytest

from otel_fastperf.detectors.awaited_lock import AwaitedLocks
from otel_fastperf.findings import CallSite, Finding
from otel_fastperf.requests.awaits import Awaited, Awaits
from otel_fastperf.settings import DatabaseSettings
from tests.detectors.records import ended

SOURCE = """\
async def token():
    async with lock:
        answer = await client.post("/token")
        return answer
    await other()
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "tokens.py"
    path.write_text(SOURCE)
    return str(path)


def found(
    *awaited: tuple[Awaited, float], times: int = 4, pause: float = 1.0, kind: str = "http", starved: float = 0.0
) -> list[Finding]:
    """The findings of the last of several requests of one second each."""
    detector = AwaitedLocks(DatabaseSettings())
    last: list[Finding] = []
    for number in range(times):
        record = ended(kind=kind)
        record.started += number * pause
        record.ended += number * pause
        record.awaits = Awaits(0.1)
        record.awaits.seconds.update(awaited)
        record.starved = starved
        last = list(detector(record))
    return last


def lock(file: str, function: str = "Lock.acquire", library: str = "asyncio") -> Awaited:
    return Awaited(library, function, CallSite(file, 2, "token"))


def test_the_finding_has_the_line_and_what_is_done_inside_the_block(file: str) -> None:
    inside = Awaited("httpx", "AsyncClient.post", CallSite(file, 3, "token"))
    after = Awaited("asyncio", "sleep", CallSite(file, 5, "token"))
    (finding,) = found((lock(file), 0.6), (inside, 0.1), (after, 0.3))
    assert (finding.kind, finding.call_site) == ("lock_wait", CallSite(file, 2, "token"))
    assert finding.message == (
        "A request waited 0.600 s, 60% of its time, for a Lock of asyncio. What keeps it: awaiting httpx"
        f" AsyncClient.post at {inside.call_site}."
    )
    assert finding.remedy.startswith(f"Do the work at {inside.call_site} before or after the block.")


def test_what_a_busy_machine_makes_longer_is_no_wait_for_a_lock(file: str) -> None:
    assert found((lock(file), 0.6), starved=0.45) == []
    assert found((lock(file), 0.6), starved=0.1)


def test_nothing_is_said_of_what_is_not_seen_inside_the_block(file: str) -> None:
    elsewhere = Awaited("httpx", "AsyncClient.post", CallSite("/srv/shop/payment.py", 3, "pay"))
    (finding,) = found((lock(file), 0.6), (elsewhere, 0.1))
    assert finding.message.endswith("for a Lock of asyncio.")
    assert finding.remedy.startswith("Keep it for less.")


@pytest.mark.parametrize(
    ("library", "function"),
    [
        ("asyncio", "Semaphore.acquire"),
        ("anyio", "Lock.acquire"),
        ("anyio", "CapacityLimiter.acquire"),
        ("threading", "RLock.acquire"),
        ("threading", "Semaphore.acquire"),
        ("redis", "Lock.acquire"),
    ],
)
def test_locks_of_all_libraries_count(file: str, library: str, function: str) -> None:
    (finding,) = found((lock(file, function, library), 0.6))
    assert finding.subject == function.removesuffix(".acquire")


@pytest.mark.parametrize("function", ["Condition.wait", "Event.wait", "Queue.get", "Pool.acquire", "blocks.acquire"])
def test_waits_for_news_and_for_connections_are_no_locks(file: str, function: str) -> None:
    assert found((lock(file, function), 0.6)) == []


def test_requests_that_came_all_at_once_are_no_finding(file: str) -> None:
    assert found((lock(file), 0.6), times=10, pause=0.05) == []
    assert found((lock(file), 0.6), times=3) == []


def test_a_small_share_and_a_websocket_are_no_finding(file: str) -> None:
    assert found((lock(file), 0.2)) == []
    assert found((lock(file), 0.6), kind="websocket") == []


def test_a_lock_without_a_line_of_the_application_is_not_blamed() -> None:
    assert found((Awaited("asyncio", "Lock.acquire", None), 0.6)) == []

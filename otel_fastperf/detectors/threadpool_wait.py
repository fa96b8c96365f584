"""`def` endpoints and dependencies waited for a thread of anyio's pool."""

from collections.abc import Iterator
from dataclasses import dataclass

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import ThreadsSettings


@dataclass(frozen=True, slots=True)
class ThreadWait:
    """One request's wait for a thread, which has just ended.

    Attributes:
        limit: Size of the pool; all of its threads were busy.
        waiting: Number of requests that still wait.
        endpoint: The endpoint of the request.
    """

    seconds: float
    limit: int
    waiting: int
    endpoint: CallSite | None


def detect_threadpool_wait(wait: ThreadWait, settings: ThreadsSettings) -> Iterator[Finding]:
    """A finding for a wait of at least `settings.wait` seconds."""
    if wait.seconds < settings.wait:
        return
    others = f"; {wait.waiting} more wait" if wait.waiting else ""
    yield Finding(
        kind=Kind.THREADPOOL_WAIT,
        severity=Severity.WARNING,
        subject="anyio's default limiter",
        message=f"A request waited {wait.seconds:.3f} s for one of {wait.limit} threads, all of them busy{others}.",
        remedy=(
            "Make the endpoint `async def` and await an async client in it, or raise the limit at start-up:"
            f" anyio.to_thread.current_default_thread_limiter().total_tokens = {2 * wait.limit}"
        ),
        evidence={"wait_seconds": wait.seconds, "limit": wait.limit, "waiting": wait.waiting},
        call_site=wait.endpoint,
        seconds=wait.seconds,
    )

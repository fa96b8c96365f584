"""`def` endpoints and dependencies queue for anyio's threads."""

from collections.abc import Iterator
from dataclasses import dataclass

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import ThreadsSettings


@dataclass(frozen=True, slots=True)
class ThreadWait:
    """One request's wait for a thread that has just ended."""

    seconds: float
    #: threads that the pool may have, all of which were at work
    limit: int
    #: requests that still wait
    waiting: int
    #: the endpoint that is served
    endpoint: CallSite | None


def detect_threadpool_wait(wait: ThreadWait, settings: ThreadsSettings) -> Iterator[Finding]:
    """A finding for a wait of `settings.wait` seconds and more."""
    if wait.seconds < settings.wait:
        return
    others = f"; {wait.waiting} more wait" if wait.waiting else ""
    yield Finding(
        kind=Kind.THREADPOOL_WAIT,
        severity=Severity.WARNING,
        subject="anyio's default limiter",
        message=f"it waited {wait.seconds:.3f} s for one of {wait.limit} threads, all of them at work{others}.",
        remedy=(
            "make the endpoint `async def` and await an async client in it, or raise the limit at start-up:"
            f" anyio.to_thread.current_default_thread_limiter().total_tokens = {2 * wait.limit}"
        ),
        evidence={"wait_seconds": wait.seconds, "limit": wait.limit, "waiting": wait.waiting},
        call_site=wait.endpoint,
        seconds=wait.seconds,
    )

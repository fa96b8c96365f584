"""Several workers: the verdict on all of them, and which of them stands out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from otel_fastperf.report.formatting import number, seconds, size
from otel_fastperf.report.model import WorkerVerdict

#: the verdict on a worker that is well
NOTHING: Final = "nothing stands out"


def together(whole: WorkerVerdict, workers: Sequence[WorkerVerdict]) -> WorkerVerdict:
    """The state of all workers: `whole` is made from sums, which say nothing of shares."""
    return replace(
        whole,
        loop_utilization=_highest(worker.loop_utilization for worker in workers),
        gc_share=_highest(worker.gc_share for worker in workers),
        sentence="; ".join(_sentences(workers)),
    )


def _sentences(workers: Sequence[WorkerVerdict]) -> Iterator[str]:
    silent = [worker for worker in workers if worker.silent_seconds is not None]
    yield from map(silence, silent)
    calm = 0
    for worker in workers:
        if worker.sentence.lower().startswith(NOTHING):
            calm += 1
        else:
            yield f"{named_worker(worker)}: {worker.sentence[:1].lower()}{worker.sentence[1:].replace('; ', ', ')}"
    if calm:
        which = "the other" if calm < len(workers) else "all"
        yield f"{which} {calm} workers: {NOTHING}" if calm > 1 else f"one worker: {NOTHING}"


def named_worker(worker: WorkerVerdict) -> str:
    """`worker 2 (pid 4711)`."""
    return f"worker {worker.number} (pid {worker.pid})"


def silence(worker: WorkerVerdict) -> str:
    """`worker 2 (pid 4711) does not answer: its figures are 12 s old`."""
    return f"{named_worker(worker)} does not answer: its figures are {seconds(worker.silent_seconds or 0.0)} old"


def _highest(values: Iterator[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


#: heads of the table of workers
HEADS: Final = ("Workers", "pid", "requests/s", "busy", "late by", "blocked", "threads", "memory")


def cells(worker: WorkerVerdict) -> tuple[str, ...]:
    """A row of the table. `late by`: 99 % of the timers of its event loop are at most that late."""
    busy, late, blocked = worker.loop_utilization, worker.loop_lag_p99, sum(worker.blocked_seconds.values())
    return (
        f"worker {worker.number}",
        str(worker.pid),
        f"{worker.requests_per_second:.1f}",
        "" if busy is None else f"{busy:.0%}",
        "" if late is None else seconds(late),
        seconds(blocked) if blocked else "",
        "" if worker.threads_borrowed is None else number(worker.threads_borrowed),
        "" if worker.resident_bytes is None else size(worker.resident_bytes),
    )


def stands_out(worker: WorkerVerdict) -> bool:
    """Whether its row is marked."""
    return worker.silent_seconds is not None or not worker.sentence.lower().startswith(NOTHING)

"""The outgoing calls of a request: HTTP requests, cache commands, messages, remote procedure calls, database drivers.

They are known from the CLIENT and PRODUCER spans that end in the request, whoever made them. SQLAlchemy's statements
are not among them, see `RequestRecord.statements`.
"""

from math import inf
from typing import Final, NamedTuple

from otel_fastperf.findings import CallSite

#: maximum number of different calls per request that are examined
MOST_GROUPS: Final = 64
#: maximum number of single calls per request that are kept
MOST_CALLS: Final = 128
#: maximum number of different targets of a group that are told apart
MOST_TARGETS: Final = 32

#: lines of the application that led to a call, innermost first
Lines = tuple[CallSite, ...]


class CallFacts(NamedTuple):
    """What the span of a call says.

    Attributes:
        cause: The `Cause` of its interval in the time budget.
        system: `http`, or OpenTelemetry's name of the system: `redis`, `postgresql`, `kafka`, `grpc`.
        peer: Host, and port where it is not the usual one; the system if the host is unknown.
        operation: HTTP method, command, method of the service, summary of a statement.
        path: Segments of an HTTP path with numbers and ids as `{}`; empty for others.
        target: What tells two calls of one operation apart, such as the full URL; "" if that is unknown.
        pages: Whether it reads one page of many.
        waits: Whether the command waits for something to happen, such as `BLPOP`.
        status: HTTP status; "" for others.
        error: `error.type`; "" for a success.
    """

    cause: int
    system: str
    peer: str
    operation: str
    path: tuple[str, ...] = ()
    target: str = ""
    pages: bool = False
    waits: bool = False
    status: str = ""
    error: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Equal for calls that may be repetitions of each other."""
        return self.system, self.peer, self.operation, len(self.path)


class CallGroup:
    """Calls of one operation of one peer in a request. Seconds are sums over them, except for the slowest."""

    __slots__ = (
        "count",
        "facts",
        "failed",
        "first",
        "last",
        "lines",
        "loop",
        "overhead",
        "path",
        "seconds",
        "sequential",
        "slowest",
        "slowest_answer",
        "targets",
        "worker",
    )

    def __init__(self, facts: CallFacts) -> None:
        #: of the first call
        self.facts: CallFacts = facts
        #: the path that all calls have in common, with `{}` where they differ
        self.path: tuple[str, ...] = facts.path
        self.count: int = 0
        self.failed: int = 0
        self.seconds: float = 0.0
        self.slowest: float = 0.0
        #: the same without the time in which the event loop may have kept an answer waiting
        self.slowest_answer: float = 0.0
        #: calls that began after all earlier ones had ended, in the same task or thread, unless one repeats a call
        #: that has failed
        self.sequential: int = 0
        #: start of the first call and end of the last, by `time.perf_counter()`
        self.first: float = 0.0
        self.last: float = 0.0
        #: task or thread of the last call
        self.worker: int = 0
        #: different targets, as hashes
        self.targets: set[int] = set()
        #: `[calls, seconds]` by the lines that led to them, for calls whose lines were looked up
        self.lines: dict[Lines, list[float]] = {}
        #: the application's line that repeats it; None if none was seen
        self.loop: CallSite | None = None
        #: seconds between the calls that looking up their lines took
        self.overhead: float = 0.0

    @property
    def name(self) -> str:
        """`GET shop.example/users/{}`, `redis GET`."""
        facts = self.facts
        if facts.system == "http":
            return f"{facts.operation} {facts.peer}/{'/'.join(self.path)}"
        return f"{facts.system} {facts.operation}".rstrip()

    def add(self, facts: CallFacts, started: float, ended: float, worker: int, answer: float = inf) -> int:
        """Add a call in the task or thread `worker`, by `time.perf_counter()`. Returns the new count.

        The answer took `answer` seconds at most, see `Delays.answer_seconds`.
        """
        count = self.count = self.count + 1
        if count == 1:
            self.first = started
        elif self.path != facts.path:
            self.path = tuple(mine if mine == its else "{}" for mine, its in zip(self.path, facts.path, strict=True))
        if started >= self.last and worker in {self.worker, self.worker or worker} and not facts.error:
            self.sequential += 1
        self.worker = worker
        seconds = ended - started
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)
        self.slowest_answer = max(self.slowest_answer, min(seconds, answer))
        self.last = max(self.last, ended)
        if facts.error:
            self.failed += 1
        if len(self.targets) < MOST_TARGETS:
            self.targets.add(hash(facts.target))
        return count

    def add_lines(self, lines: Lines, seconds: float) -> None:
        """Add the lines that led to a call."""
        known = self.lines.setdefault(lines, [0, 0.0])
        known[0] += 1
        known[1] += seconds


class Call(NamedTuple):
    """One call that took long enough to matter.

    Attributes:
        started, ended: By `time.perf_counter()`.
        own: Seconds in between, without those in which the process or the event loop stood still.
        worker: The task or thread that made it.
        lines: Those that led to it, innermost first.
        in_thread: It was made in a thread, not on the event loop.
    """

    group: CallGroup
    started: float
    ended: float
    own: float
    worker: int
    lines: Lines
    failed: bool
    in_thread: bool = False


class MadeClient(NamedTuple):
    """A client, session, pool or engine that a request has made.

    Attributes:
        label: Its class.
        site: The line of the application that made it.
        seconds: How long that took.
    """

    label: str
    site: CallSite
    seconds: float


class RequestCalls:
    """All outgoing calls of one request.

    Attributes:
        groups: By `CallFacts.key`, the first `MOST_GROUPS`.
        long: The calls that took long, in the order of their ends.
        made: Clients and engines that the request made, in the order in which they were ready.
    """

    __slots__ = ("groups", "long", "made")

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str, str, int], CallGroup] = {}
        self.long: list[Call] = []
        self.made: list[MadeClient] = []

    def group(self, facts: CallFacts) -> CallGroup | None:
        """The group of a call; None if there are too many."""
        group = self.groups.get(facts.key)
        if group is None and len(self.groups) < MOST_GROUPS:
            group = self.groups.setdefault(facts.key, CallGroup(facts))
        return group

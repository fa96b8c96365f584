"""The header of an app: what its faulty variant has to be told, and the load that shows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: a comment at the end of a line: one of the lines that a finding may name
HERE: Final = "here"


@dataclass(frozen=True, slots=True)
class Send:
    """Requests to send. Several `Send`s of an app run side by side.

    Attributes:
        request: Method and path, `GET /orders/{n}`; `{n}` counts the requests. `WS /feed` opens a websocket, sends one
            text, and reads until the app closes it.
        times: Number of requests.
        at_once: Number of clients that share them; each sends its next request when it has its answer.
        pause: Seconds that a client waits between two requests.
        after: Seconds before the first request.
        body: Body of the request: text, or a value that is sent as JSON.
        headers: Headers of the request.
        size: Bytes of a body of zeros, in place of `body`.
        leave: Seconds after which the client goes away without its answer; 0 if it is patient.
    """

    request: str
    times: int = 20
    at_once: int = 4
    pause: float = 0.0
    after: float = 0.0
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int = 0
    leave: float = 0.0


@dataclass(frozen=True, slots=True)
class Expected:
    """A finding that the faulty variant must have.

    Attributes:
        kind: Its kind; `a|b` if both are true.
        line: It names a line that ends with the comment `# <- LINE`; `LINE?` if it may also name
            none. None if it may name no line.
        remedy: Regular expressions that its remedy must match, in any case.
        wrong: Regular expressions that neither its message nor its remedy may match.
        message: Regular expressions that its message must match.
        route: Its route, `/orders/{order_id}` or `POST /orders`; empty if any will do.
        most: The largest number of findings that tell it; 0 if it does not matter.
    """

    kind: str
    line: str | None = HERE
    remedy: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    message: tuple[str, ...] = ()
    route: str = ""
    most: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is true of an app. The harness reads it without importing the app, so it is made of literals only.

    Attributes:
        expected: The findings of the faulty variant. Any other finding is false. The healthy twin has none.
        load: The requests to send.
        largest: The largest segment of the route's time in the faulty variant; `a|b` if both are true; empty if it
            does not matter.
        healthy_largest: The same for the healthy twin.
        route: Method and template of the route whose verdict is judged, `GET /orders/{order_id}`. Empty means the
            route that took the most seconds.
        verdict: Regular expressions that the report of the faulty variant must match, as text, in any case;
            `{here}` stands for the marked lines.
        wrong_verdict: Regular expressions that it may not match.
        also: Kinds that the faulty variant may have in addition, because they are true too.
        databases: The databases to run on: `sqlite`, `postgresql`; empty for an app without a database.
        loops: The event loops to run on.
        neighbour: The app calls a slow neighbour; its URL is in the variable NEIGHBOUR. See neighbour.py.
        open: What is still told wrong of it. Its rows are shown, and do not count for the exit status.
        twin: There is a healthy twin.
        environment: Further variables for the app.
        lasts: Seconds to send for, in place of each `times`; the test suite sends for 20 at most.
        quick: One of the few that the test suite runs, on one event loop and one database.
        seconds: The longest time that the load may take.
    """

    expected: tuple[Expected, ...] = ()
    load: tuple[Send, ...]
    largest: str = ""
    healthy_largest: str = ""
    route: str = ""
    verdict: tuple[str, ...] = ()
    wrong_verdict: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()
    loops: tuple[str, ...] = ("asyncio", "uvloop")
    neighbour: bool = False
    open: str = ""
    twin: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    lasts: float = 0.0
    quick: bool = False
    seconds: float = 90.0

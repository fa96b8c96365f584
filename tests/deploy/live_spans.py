"""Spans that the demo exported, of requests with each trouble that queries and the registry of names are about."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.otlp import ReceivedSpan, Receiver
from tests.serving import run_server, wait_until

#: endpoints of the demo and how many requests at once each gets, so that every query finds something
TROUBLES: Final = {
    "/slow/n-plus-one": 2,
    "/slow/slow-query": 2,
    "/slow/blocking-call": 3,
    "/slow/pool-wait": 6,
    "/slow/slow-dependency": 3,
    "/slow/slow-commit": 1,
    "/failures/before-response": 1,
}
#: events that TROUBLES must have caused before the spans are complete enough
EXPECTED: Final = {"fastperf.n_plus_one", "fastperf.blocking_call", "fastperf.await", "exception"}

#: a busy machine may hide a block of the event loop, or what a request awaits; then all are asked again
_ROUNDS: Final = 5


def exported_by_the_demo(folder: Path) -> list[ReceivedSpan]:
    """The spans, of each kind of request in TROUBLES; the demo's database is in the folder."""
    with Receiver() as receiver:
        environment = {
            "OTEL_SERVICE_NAME": "shop",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'shop.sqlite3'}",
        }
        command = ["uvicorn", "demo.app:app", "--port", "{port}", "--log-level", "warning"]
        with run_server(command, log=folder / "shop.log", environment=environment) as shop:
            for _ in range(_ROUNDS):
                with ThreadPoolExecutor(max(TROUBLES.values())) as clients:
                    for path, times in TROUBLES.items():
                        list(clients.map(shop.get, [path] * times))
                with suppress(AssertionError):
                    wait_until(lambda: _events(receiver) >= EXPECTED, seconds=15)
                    break
            assert _events(receiver) >= EXPECTED
        # the end of the server sends the rest
        return list(receiver.spans)


def _events(receiver: Receiver) -> set[str]:
    return {event.name for span in receiver.spans for event in span.events}

"""A client, session or engine that each request makes, so that no connection is ever used again."""

from collections.abc import Iterator
from typing import Final

from otel_fastperf.detectors.recurrence import Recurrence
from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.requests.calls import MadeClient
from otel_fastperf.requests.record import RequestRecord

_ENGINE: Final = "sqlalchemy.Engine"


class ClientsPerRequest:
    """The detector, which remembers the last requests of each route: one that is made once and kept is no finding."""

    def __init__(self, recurrence: Recurrence) -> None:
        self._recurrence = recurrence

    def __call__(self, record: RequestRecord) -> Iterator[Finding]:
        """Yield a finding for each line that makes a client in the requests of a route, again and again."""
        made: dict[CallSite, list[MadeClient]] = {}
        for client in () if record.calls is None else tuple(record.calls.made):
            made.setdefault(client.site, []).append(client)
        recurring = self._recurrence.recurring(record, made)
        for site, clients in made.items():
            if site in recurring:
                yield _finding(record, site, clients)


def _finding(record: RequestRecord, site: CallSite, clients: list[MadeClient]) -> Finding:
    # the outermost of those that a line makes is noted last
    label, seconds = clients[-1].label, sum(client.seconds for client in clients)
    share = min(seconds / record.seconds, 1.0) if record.seconds else 0.0
    return Finding(
        kind=Kind.CLIENT_PER_REQUEST,
        severity=Severity.WARNING,
        subject=label,
        message=f"Each request makes a new {label}, in {seconds:.4f} s: no connection is ever used again.",
        remedy=_remedy(label),
        evidence={"client": label, "made": len(clients), "seconds": seconds, "share": share},
        call_site=site,
        seconds=seconds,
    )


def _remedy(label: str) -> str:
    if label == _ENGINE:
        return (
            "Make one engine for the process, when the module is imported or in the lifespan, and dispose of it there."
        )
    return (
        f"Make one {label} in the app's lifespan, keep it in app.state, and close it after the yield; requests then"
        " share its open connections."
    )

"""What is known of the whole service: of this process, or of all workers of which it is one."""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import chain
from typing import Final

from pydantic import TypeAdapter

from otel_fastperf.exposition.gathering import METRICS, summed
from otel_fastperf.exposition.merging import folded
from otel_fastperf.exposition.rendering import Renderer
from otel_fastperf.exposition.series import read, written
from otel_fastperf.findings import Finding, FindingLog
from otel_fastperf.findings_outlet import Findings
from otel_fastperf.internals.breath import Breath
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.versions import installed_version
from otel_fastperf.metrics import Metrics
from otel_fastperf.report.diagnose import KnownOfRoutes, RouteAwaits, WorkerProcess, diagnose
from otel_fastperf.report.histograms import Sample
from otel_fastperf.report.model import Report, plain
from otel_fastperf.requests.awaits import Awaited, AwaitsOfRoutes, merged_awaits
from otel_fastperf.requests.recent import RecentRequests, Segments
from otel_fastperf.requests.route import Route
from otel_fastperf.requests.time_budget import Segment
from otel_fastperf.settings import Settings
from otel_fastperf.workers import Gathering, WorkerAnswer, Workers
from otel_fastperf.workers.sections import packed, section

#: parts of what a worker tells: what lasts longer than itself, and its state
_KEPT: Final = "kept"
_STATE: Final = "state"
#: what siblings ask for: the snapshot, and the budgets of the last requests
_REPORT: Final = "report"
#: merged findings of workers that have ended
_MOST_ENDED: Final = 500
#: seconds for which the text of the findings is used again; a scrape does not show them
_FRESH: Final = 5.0

#: packages whose versions matter when a report is read
PACKAGES: Final = ("otel-fastperf", "fastapi", "sqlalchemy", "opentelemetry-sdk")


@dataclass(frozen=True, slots=True)
class _RouteAwaits:
    method: str
    route: str
    awaited: tuple[tuple[Awaited, float], ...]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What outlives a worker."""

    findings: tuple[Finding, ...] = ()
    awaits: tuple[_RouteAwaits, ...] = ()

    def by_route(self) -> dict[tuple[str, str], Mapping[Awaited, float]]:
        return {(each.method, each.route): dict(each.awaited) for each in self.awaits}


@dataclass(frozen=True, slots=True)
class _WorkerState:
    """A worker's own state: since when it measures, the budgets of its last requests, and routes that send events."""

    started: float = 0.0
    recent: tuple[tuple[Route, tuple[Mapping[Segment, float], ...]], ...] = ()
    event_streams: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """Where this process keeps what it knows."""

    metrics: Metrics
    findings: Findings
    awaits: AwaitsOfRoutes
    recent: RecentRequests
    started: float = field(default_factory=time.time)


class WholeService:
    """The service as a whole: its metrics for scrapes are added up, its report is made from what all workers know."""

    def __init__(
        self,
        known: Known,
        settings: Settings,
        guard: Guard,
        name: Callable[[], str],
        uninstrumented: Callable[[], Mapping[str, str]],
    ) -> None:
        """`name()` is the service's name, `uninstrumented()` what `KnownOfRoutes` has of client libraries."""
        self._uninstrumented = uninstrumented
        self._known = known
        self._settings = settings
        self._guard = guard
        self._name = name
        self._renderer = Renderer(known.metrics, guard, default_registry=settings.metrics.default_registry)
        self._reading = threading.Lock()
        self._kept: tuple[float, bytes] = (0.0, b"")
        self.workers: Workers = Workers(name, self._snapshot, _folded, guard, enabled=settings.workers.enabled)
        self.workers.topics[_REPORT] = lambda _rest: self._report()

    def diagnose(self) -> Report:
        """The report of all workers that answer, and of what the others have told before."""
        if self.workers.join():
            try:
                gathering = self.workers.gather(_REPORT, own=self._report)
            except OSError as error:  # somebody has removed the folder
                self._guard.failed("workers", error)
            else:
                return self._of_all(gathering)
        own = self._known
        return self._made(
            own.metrics.samples(lambda error: self._guard.failed("metrics_refresh", error)),
            own.findings.log.findings(),
            self._of_routes(own.awaits.by_route(), own.recent.by_route(), own.recent.event_streams),
            (),
            started=own.started,
        )

    def _of_routes(
        self, awaits: RouteAwaits, recent: Mapping[Route, Sequence[Segments]], event_streams: frozenset[Route]
    ) -> KnownOfRoutes:
        return KnownOfRoutes(awaits, recent, self._settings.findings.slow_route, self._uninstrumented(), event_streams)

    def _made(
        self,
        samples: Iterable[Sample],
        findings: Sequence[Finding],
        routes: KnownOfRoutes,
        workers: Sequence[WorkerProcess],
        *,
        started: float,
    ) -> Report:
        return diagnose(
            samples,
            findings,
            routes,
            service=self._name(),
            versions={"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}},
            now=time.time(),
            pid=os.getpid(),
            started=started,
            workers=workers,
        )

    def _of_all(self, gathering: Gathering) -> Report:
        breathe = Breath()
        living = [answer for answer in gathering.answers if not answer.has_ended and answer.body]
        states = [_state(section(answer.body, _STATE)) for answer in living]
        kept = [_read_kept(section(body, _KEPT)) for body in (*(a.body for a in gathering.answers), gathering.ended)]
        log = FindingLog(self._settings.findings.most)
        for finding in chain.from_iterable(each.findings for each in kept):
            log.add(finding)
        series = summed(gathering, self._guard, breathe)
        return self._made(
            ((name, labels, value) for each in series for name, labels, value, _, _ in each.samples()),
            log.findings(),
            self._of_routes(
                merged_awaits(each.by_route() for each in kept),
                _merged_recent(states),
                frozenset(chain.from_iterable(state.event_streams for state in states)),
            ),
            [self._process(answer, state, breathe) for answer, state in zip(living, states, strict=True)],
            started=min(state.started for state in states),
        )

    @staticmethod
    def _process(answer: WorkerAnswer, state: _WorkerState, breathe: Callable[[], object]) -> WorkerProcess:
        families = read(section(answer.body, METRICS), breathe)
        samples = [(name, labels, value) for each in families for name, labels, value, _, _ in each.samples()]
        findings = _read_kept(section(answer.body, _KEPT)).findings
        return WorkerProcess(answer.slot, answer.pid, state.started, answer.age, samples, findings)

    def _snapshot(self) -> bytes:
        """What is written down, and what a scrape needs."""
        at, kept = self._kept
        if time.monotonic() - at > _FRESH:
            kept = self._told()
        return packed({METRICS: self._measured(), _KEPT: kept, _STATE: _json(_WorkerState(self._known.started))})

    def _report(self) -> bytes:
        self._kept = (0.0, b"")
        written_down = self.workers.tell()
        recent = tuple((route, tuple(budgets)) for route, budgets in self._known.recent.by_route().items())
        state = _json(_WorkerState(self._known.started, recent, tuple(self._known.recent.event_streams)))
        return packed({METRICS: section(written_down, METRICS), _KEPT: section(written_down, _KEPT), _STATE: state})

    def _measured(self) -> bytes:
        breathe = Breath()
        with self._reading:
            return written(self._renderer.families(breathe), breathe)

    def _told(self) -> bytes:
        """The findings and what was awaited, as text."""
        awaits = self._known.awaits.by_route()
        kept = _Kept(
            self._known.findings.log.findings(),
            tuple(_RouteAwaits(*route, tuple(those.items())) for route, those in awaits.items()),
        )
        text = _json(kept) if kept.findings or kept.awaits else b""
        self._kept = (time.monotonic(), text)
        return text

    def last_words(self) -> None:
        """Write down all that this worker knows, as it is about to end; nothing if it has no siblings."""
        if self.workers.is_member:
            self._kept = (0.0, b"")
            self.workers.tell()


def _json(value: _Kept | _WorkerState) -> bytes:
    return json.dumps(plain(asdict(value))).encode()


@cache
def _kept_adapter() -> TypeAdapter[_Kept]:
    return TypeAdapter(_Kept)


@cache
def _state_adapter() -> TypeAdapter[_WorkerState]:
    return TypeAdapter(_WorkerState)


def _read_kept(text: bytes) -> _Kept:
    try:
        return _kept_adapter().validate_python(json.loads(text)) if text else _Kept()
    except ValueError:  # a worker of another version
        return _Kept()


def _state(text: bytes) -> _WorkerState:
    try:
        return _state_adapter().validate_python(json.loads(text)) if text else _WorkerState(time.time())
    except ValueError:  # a worker of another version
        return _WorkerState(time.time())


def _folded(ended: bytes, dead: bytes) -> bytes:
    """What workers that have ended had counted and found, and one more of them."""
    return packed(
        {
            METRICS: folded(section(ended, METRICS), section(dead, METRICS)),
            _KEPT: _folded_kept(section(ended, _KEPT), section(dead, _KEPT)),
        }
    )


def _folded_kept(ended: bytes, dead: bytes) -> bytes:
    if not ended or not dead:
        return ended or dead
    kept = [_read_kept(ended), _read_kept(dead)]
    log = FindingLog(_MOST_ENDED)
    for finding in chain.from_iterable(each.findings for each in kept):
        log.add(finding)
    awaits = merged_awaits(each.by_route() for each in kept)
    routes = tuple(_RouteAwaits(*route, tuple(those.items())) for route, those in awaits.items())
    return _json(_Kept(log.findings(), routes))


def _merged_recent(states: Iterable[_WorkerState]) -> dict[Route, Sequence[Segments]]:
    merged: dict[Route, list[Segments]] = {}
    for state in states:
        for route, budgets in state.recent:
            merged.setdefault(route, []).extend(budgets)
    return dict(merged)

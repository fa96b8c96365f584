"""The `fastperf` fixture: it watches apps during a test and shows what their requests did.

Heavy modules are imported only when an app is watched: the plugin is part of every test run, and most have no app.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from otel_fastperf.findings import Finding
from otel_fastperf.pytest_plugin.budgets import Limits, told
from otel_fastperf.pytest_plugin.naming import Names
from otel_fastperf.pytest_plugin.recording import Recorder, Request

if TYPE_CHECKING:
    from otel_fastperf.settings import Settings
    from otel_fastperf.telemetry import Telemetry

_R = TypeVar("_R", Request, Finding)

#: Tests have three rows where production has three thousand, so counts matter and durations do not.
THRESHOLDS: Final[Mapping[str, str]] = {
    "OTEL_FASTPERF_DATABASE_N_PLUS_ONE": "3",
    "OTEL_FASTPERF_DATABASE_N_PLUS_ONE_SECONDS": "0",
    "OTEL_FASTPERF_DATABASE_SYNC_ON_LOOP": "0",
    # a test client makes a new loop for each request
    "OTEL_FASTPERF_LOOP_START_AFTER": "0",
}

#: seconds; a server in another thread responds before it has measured the request
_SETTLES_WITHIN: Final = 1.0


class FastPerf:
    """The fixture: the requests of a test, and assertions about them.

    Requests count once the test's own code begins; those that fixtures sent before do not.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._recorder = Recorder()
        self._stack = ExitStack()
        self._watched: dict[int, Telemetry] = {}

    def watch(self, app: Any) -> "Telemetry":
        """Watch a FastAPI app until the test ends. An app with its own telemetry keeps it and its settings.

        Returns:
            The app's telemetry handle: `spans()`, `findings()`.

        Raises:
            SetupError: It is not a FastAPI app; the message names the remedy.
        """
        known = self._watched.get(id(app))
        if known is not None:
            return known
        telemetry, is_own = _telemetry_of(app)
        if is_own:
            self._stack.callback(telemetry.shutdown)
        self._watched[id(app)] = telemetry
        self._stack.callback(telemetry.add_request_listener(self._recorder.ended))
        self._stack.callback(telemetry.add_finding_listener(self._recorder.found))
        return telemetry

    @property
    def watches(self) -> "tuple[Telemetry, ...]":
        """The telemetry handles of the watched apps."""
        return tuple(self._watched.values())

    @property
    def requests(self) -> tuple[Request, ...]:
        """The finished requests, in the order in which they were first noticed."""
        self._settle()
        return self._recorder.requests()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, in requests and outside of them, oldest first."""
        self._settle()
        return self._recorder.findings()

    def assert_queries(self, *, at_most: int, route: str | None = None, method: str | None = None) -> None:
        """Assert that no request (of this route and method) ran more SQL statements. Fails if there was none."""
        __tracebackhide__ = True
        self._assert(Limits(max_queries=at_most), _on(route, method, self.requests), ())

    def assert_no(self, *kinds: str, route: str | None = None, method: str | None = None) -> None:
        """Assert that no findings of these kinds exist (in this route and method). Fails if there was no request."""
        __tracebackhide__ = True
        found = _on(route, method, self.findings)
        self._assert(Limits(forbid=kinds), _on(route, method, self.requests), found)

    @contextmanager
    def budget(
        self, *, max_queries: int | None = None, max_seconds: float | None = None, forbid: tuple[str, ...] = ()
    ) -> Iterator[None]:
        """Limit each request that ends in this `with` block. Fails if there was none."""
        __tracebackhide__ = True
        requests, findings = len(self.requests), len(self.findings)
        yield
        budget = Limits(max_queries=max_queries, max_seconds=max_seconds, forbid=forbid)
        self._assert(budget, self.requests[requests:], self.findings[findings:])

    def begin(self) -> None:
        """Remove earlier requests and findings."""
        self._recorder.clear()

    def close(self) -> None:
        """Stop watching; shut down telemetry that was set up for the test."""
        self._stack.close()

    def _assert(self, budget: Limits, requests: tuple[Request, ...], findings: tuple[Finding, ...]) -> None:
        __tracebackhide__ = True
        complaint = self.blindness(budget, requests)
        if complaint:
            raise AssertionError(complaint)
        violations = budget.violations(requests, findings, self._names)
        if violations:
            raise AssertionError(told(violations))

    def blindness(self, budget: Limits, requests: tuple[Request, ...]) -> str:
        """Why the budget would check nothing; "" if it checks something."""
        if not self._watched:
            return (
                "fastperf watches no app. Remedy: call fastperf.watch(app) before the first request, or set the option"
                ' fastperf_app = "shop.main:app", or override the fixture fastperf_app with one that returns the app.'
            )
        unseen = dict.fromkeys(each for telemetry in self.watches for each in budget.unseen(telemetry.settings))
        if unseen:
            return f"fastperf cannot see {'; '.join(unseen)}. Remedy: switch this on in tests."
        if requests:
            return ""
        ended = ", ".join(sorted({str(request) for request in self.requests})) or "none"
        return (
            f"fastperf saw no request to judge; finished requests: {ended}. Remedy: watch the app that the test's"
            " client uses, and pass the route as its template, such as /orders/{order_id}."
        )

    def _settle(self) -> None:
        """Wait until a server in another thread has measured the requests that it has answered."""
        deadline = time.monotonic() + _SETTLES_WITHIN
        while any(map(_is_busy, self.watches)) and time.monotonic() < deadline and not _on_a_loop():
            time.sleep(0.002)
        for telemetry in self.watches:
            telemetry.findings()  # derives what is still pending


def _on(route: str | None, method: str | None, those: Iterable[_R]) -> tuple[_R, ...]:
    """Requests or findings of a route and a method; None stands for all."""
    return tuple(one for one in those if route in {None, one.route} and method in {None, one.method})


def _telemetry_of(app: Any) -> "tuple[Telemetry, bool]":
    """The app's telemetry, and whether this call has set it up."""
    from otel_fastperf.telemetry import setup_telemetry, telemetry_of

    existing = telemetry_of(app)
    if existing is not None:
        return existing, False
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("OTEL_")))
    return setup_telemetry(app, settings=_settings(environment)), True


@lru_cache(maxsize=8)
def _settings(_environment: tuple[tuple[str, str], ...]) -> "Settings":
    """Settings for tests: no export, no routes in the app, no warnings that could fail a test.

    Cached by environment, because the search for OpenTelemetry's entry points takes longer than everything else.
    """
    from otel_fastperf.settings import OWN, Settings

    groups: dict[str, dict[str, Any]] = {
        "traces": {"exporter": "none"},
        "metrics": {"enabled": False},
        "debug": {"enabled": False},
        "logs": {"enabled": False},
        "memory": {"enabled": False},  # memory and pauses would be those of the test run
        "findings": {"enabled": True, "warnings_per_minute": 0},
    }
    for variable, value in THRESHOLDS.items():
        if not os.environ.get(variable):
            group, _, name = OWN[variable].partition(".")
            groups.setdefault(group, {})[name] = value
    return Settings(sdk_disabled=False, **groups)


def _is_busy(telemetry: "Telemetry") -> bool:
    registry: Any = telemetry.metrics.registry
    families = registry.restricted_registry(["http_server_active_requests"]).collect()
    return any(sample.value > 0 for family in families for sample in family.samples)


def _on_a_loop() -> bool:
    """Whether this thread runs an event loop: then waiting would only delay the request."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

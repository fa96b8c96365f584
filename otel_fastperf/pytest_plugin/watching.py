"""What the `fastperf` fixture is: it watches apps while a test runs, and says what their requests did.

Whatever is heavy is imported when an app is watched: the plugin is part of every test run, and most have no app.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from otel_fastperf.findings import Finding
from otel_fastperf.pytest_plugin.budgets import Limits, told
from otel_fastperf.pytest_plugin.naming import Names
from otel_fastperf.pytest_plugin.recording import Recorder, Request

if TYPE_CHECKING:
    from otel_fastperf.settings import Settings
    from otel_fastperf.telemetry import Telemetry

#: Tests have three rows where production has three thousand: what matters there is how often, not how long.
THRESHOLDS: Final[Mapping[str, str]] = {
    "OTEL_FASTPERF_DATABASE_N_PLUS_ONE": "3",
    "OTEL_FASTPERF_DATABASE_N_PLUS_ONE_SECONDS": "0",
    "OTEL_FASTPERF_DATABASE_SYNC_ON_LOOP": "0",
    # a test client has a loop for each request
    "OTEL_FASTPERF_LOOP_START_AFTER": "0",
}

#: A server in a thread or process of its own answers before it has measured the request; this long at most, in seconds.
_SETTLES_WITHIN: Final = 1.0


class FastPerf:
    """The fixture: what the requests of a test did, and assertions about them.

    Requests count from when the test's own code begins: what fixtures asked before is not the test's.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._recorder = Recorder()
        self._stack = ExitStack()
        self._watched: dict[int, Telemetry] = {}

    def watch(self, app: Any) -> "Telemetry":
        """Watch a FastAPI app until the test ends. An app that has telemetry keeps it, with its settings.

        Returns:
            The app's telemetry handle: `spans()`, `findings()`.

        Raises:
            SetupError: it is no FastAPI app; the message names the remedy.
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
        """The handles of the apps that are watched."""
        return tuple(self._watched.values())

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests that have ended, in the order in which they began to be noticed."""
        self._settle()
        return self._recorder.requests()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that was found, in requests and outside of them, oldest first."""
        self._settle()
        return self._recorder.findings()

    def assert_queries(self, *, at_most: int, route: str | None = None) -> None:
        """No request, or none on this route, ran more SQL statements. Fails if there was no such request."""
        __tracebackhide__ = True
        self._assert(Limits(max_queries=at_most), self._on(route), ())

    def assert_no(self, *kinds: str, route: str | None = None) -> None:
        """Nothing of these kinds was found, in any request or in those on this route. Fails if there was no request."""
        __tracebackhide__ = True
        found = tuple(each for each in self.findings if route is None or each.route == route)
        self._assert(Limits(forbid=kinds), self._on(route), found)

    @contextmanager
    def budget(
        self, *, max_queries: int | None = None, max_seconds: float | None = None, forbid: tuple[str, ...] = ()
    ) -> Iterator[None]:
        """The requests that end in this block keep within this; each of them. Fails if there was none."""
        __tracebackhide__ = True
        requests, findings = len(self.requests), len(self.findings)
        yield
        budget = Limits(max_queries=max_queries, max_seconds=max_seconds, forbid=forbid)
        self._assert(budget, self.requests[requests:], self.findings[findings:])

    def begin(self) -> None:
        """Forget what was before."""
        self._recorder.clear()

    def close(self) -> None:
        """Watch no longer; telemetry that was set up for the test is undone."""
        self._stack.close()

    def _on(self, route: str | None) -> tuple[Request, ...]:
        return tuple(request for request in self.requests if route is None or request.route == route)

    def _assert(self, budget: Limits, requests: tuple[Request, ...], findings: tuple[Finding, ...]) -> None:
        __tracebackhide__ = True
        complaint = self.blindness(budget, requests)
        if complaint:
            raise AssertionError(complaint)
        violations = budget.violations(requests, findings, self._names)
        if violations:
            raise AssertionError(told(violations))

    def blindness(self, budget: Limits, requests: tuple[Request, ...]) -> str:
        """Why the budget would check nothing; "" if it does check."""
        if not self._watched:
            return (
                "fastperf watches no app. Remedy: fastperf.watch(app) before the first request, or the option"
                ' fastperf_app = "shop.main:app", or a fixture fastperf_app that returns the app.'
            )
        unseen = dict.fromkeys(each for telemetry in self.watches for each in budget.unseen(telemetry.settings))
        if unseen:
            return f"fastperf cannot see {'; '.join(unseen)}. Remedy: leave that on in tests."
        if requests:
            return ""
        ended = ", ".join(sorted({str(request) for request in self.requests})) or "none"
        return (
            f"fastperf has seen no request to judge; those that ended were: {ended}. Remedy: watch the app that the"
            " test's client talks to, and give the route as its template, such as /orders/{order_id}."
        )

    def _settle(self) -> None:
        """Wait until a server elsewhere has measured the requests that it has answered."""
        deadline = time.monotonic() + _SETTLES_WITHIN
        while any(map(_is_busy, self.watches)) and time.monotonic() < deadline and not _on_a_loop():
            time.sleep(0.002)


def _telemetry_of(app: Any) -> "tuple[Telemetry, bool]":
    """The app's telemetry, and True if it was set up for this."""
    from otel_fastperf.telemetry import setup_telemetry, telemetry_of

    existing = telemetry_of(app)
    if existing is not None:
        return existing, False
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("OTEL_")))
    return setup_telemetry(app, settings=_settings(environment)), True


@lru_cache(maxsize=8)
def _settings(_environment: tuple[tuple[str, str], ...]) -> "Settings":
    """For tests: nothing leaves the process, nothing is added to the app, no warning that a test might trip over.

    Made once for each environment: to look for OpenTelemetry's entry points takes longer than all the rest.
    """
    from otel_fastperf.settings import OWN, Settings

    groups: dict[str, dict[str, Any]] = {
        "traces": {"exporter": "none"},
        "metrics": {"enabled": False},
        "debug": {"enabled": False},
        "logs": {"enabled": False},
        "memory": {"enabled": False},  # the collector's pauses in a test run are the test run's
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
    """Does this run on an event loop? Then waiting would only keep the request waiting."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

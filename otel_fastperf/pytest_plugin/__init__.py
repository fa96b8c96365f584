"""Bottlenecks fail tests: the `fastperf` fixture, the marker and the options. See docs/pytest.md.

    @pytest.mark.fastperf(max_queries=3)
    def test_orders(client):
        client.get("/orders")

pytest loads this in every project that has the package installed. It therefore imports nothing heavy, and does nothing
until a test uses the fixture or the marker.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from otel_fastperf.errors import AppError
from otel_fastperf.internals.app_loading import load_app
from otel_fastperf.pytest_plugin import baseline, session
from otel_fastperf.pytest_plugin.baseline import Baseline
from otel_fastperf.pytest_plugin.budgets import MAX_SECONDS, Limits, Violation, budget_of, checked_kinds, told
from otel_fastperf.pytest_plugin.naming import Names
from otel_fastperf.pytest_plugin.recording import Request, Statement
from otel_fastperf.pytest_plugin.session import Session
from otel_fastperf.pytest_plugin.watching import THRESHOLDS, FastPerf

__all__ = ["FastPerf", "Request", "Statement"]

_MARKER: Final = (
    "fastperf(max_queries=None, max_seconds=None, forbid=('n_plus_one', 'blocking_call', 'sync_db_on_loop'), allow=()):"
    " limits of each request of the test, in SQL statements and seconds, and the kinds of findings that fail the test."
)


@dataclass(slots=True)
class _Run:
    """One run of pytest in one process."""

    names: Names
    #: from the options, for arguments that a marker does not give
    default: Limits
    baseline: Baseline
    baseline_path: Path | None
    report_path: Path | None
    #: violations are written to the baseline instead of failing tests
    updates: bool
    #: this is a worker process of pytest-xdist
    is_worker: bool
    seen: Session = field(default_factory=Session)
    #: lines for the end of the summary
    last_lines: list[str] = field(default_factory=list)


_RUN: Final = pytest.StashKey[_Run]()
_WATCH: Final = pytest.StashKey[FastPerf]()
_SET_VARIABLES: Final = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and ini options."""
    group = parser.getgroup("fastperf", "bottlenecks of FastAPI apps")
    group.addoption("--fastperf-baseline", metavar="FILE", help="Findings in this file do not fail a test.")
    group.addoption(
        "--fastperf-update-baseline",
        action="store_true",
        help="Write the current violations to the baseline file, and remove stale entries.",
    )
    group.addoption("--fastperf-report", metavar="FILE", help="Write all findings of the run to this file, as JSON.")
    parser.addini("fastperf_app", 'The app under test, "shop.main:app"; the fixture fastperf_app returns it.')
    parser.addini("fastperf_max_queries", "Maximum number of SQL statements per request, in tests that use fastperf.")
    parser.addini("fastperf_forbid", "Kinds of findings that fail tests that use fastperf.", type="args")
    parser.addini("fastperf_baseline", "Like --fastperf-baseline, relative to the ini file.")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Set the thresholds for tests if the ini file has our options: a conftest.py may import the app."""
    if any(early_config.getini(name) for name in ("fastperf_app", "fastperf_max_queries", "fastperf_forbid")):
        fresh = [variable for variable in THRESHOLDS if not os.environ.get(variable)]
        os.environ.update({variable: THRESHOLDS[variable] for variable in fresh})
        early_config.stash[_SET_VARIABLES] = fresh


def pytest_unconfigure(config: pytest.Config) -> None:
    """Restore the environment."""
    for variable in config.stash.get(_SET_VARIABLES, ()):
        os.environ.pop(variable, None)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options and the baseline."""
    config.addinivalue_line("markers", _MARKER)
    path = _baseline_path(config)
    updates = bool(config.getoption("fastperf_update_baseline"))
    if updates and path is None:
        message = (
            "--fastperf-update-baseline requires a file. Remedy: pass --fastperf-baseline=FILE, or set"
            " fastperf_baseline in the ini file."
        )
        raise pytest.UsageError(message)
    is_there = path is not None and (path.exists() or not updates)
    report = config.getoption("fastperf_report")
    config.stash[_RUN] = _Run(
        names=Names(config.rootpath),
        default=_default_budget(config),
        baseline=baseline.read(path) if path is not None and is_there else Baseline(),
        baseline_path=path,
        report_path=config.invocation_params.dir / report if report else None,
        updates=updates,
        is_worker=hasattr(config, "workerinput"),
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the fixture to tests with the marker; check all markers before the first test runs."""
    for item in items:
        names: list[str] | None = getattr(item, "fixturenames", None)
        if names is not None and budget_of(item, config.stash[_RUN].default) is not None and "fastperf" not in names:
            names.insert(0, "fastperf")


@pytest.fixture
def fastperf_app(pytestconfig: pytest.Config) -> Any:
    """The app that `fastperf` watches: the option's, or None. Override it if a fixture makes the app."""
    return _app_named(pytestconfig.getini("fastperf_app"))


@pytest.fixture
def fastperf(request: pytest.FixtureRequest, fastperf_app: Any) -> Iterator[FastPerf]:
    """Requests and findings of the test, and assertions about them."""
    watch = FastPerf(request.config.stash[_RUN].names)
    try:
        if fastperf_app is not None:
            watch.watch(fastperf_app)
        request.node.stash[_WATCH] = watch
        yield watch
    finally:
        watch.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Watch the test's own code: requests that fixtures sent before do not count."""
    watch = item.stash.get(_WATCH, None)
    if watch is None:
        return (yield)
    watch.begin()
    run = item.config.stash[_RUN]
    try:
        result = yield
    finally:
        requests, findings = watch.requests, watch.findings
        run.seen.note(item.nodeid, requests, findings, run.names)
    _check(item, watch, run, requests, findings)
    return result


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker passes on its results; the main process writes the files."""
    run = session.config.stash[_RUN]
    if run.is_worker:
        session.config.workeroutput["fastperf"] = run.seen.dumps()  # type: ignore[attr-defined]
    else:
        run.last_lines += _written(run)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Merge the results of a worker of pytest-xdist; a crashed one has none."""
    results = getattr(node, "workeroutput", {}).get("fastperf")
    if results is not None:
        node.config.stash[_RUN].seen.merge(session.loads(results))


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter", config: pytest.Config) -> None:
    """Print the findings, worst first, the stale entries of the baseline, and the written files."""
    run = config.stash[_RUN]
    lines = [*session.summary(run.seen, run.baseline.known, run.names), *run.last_lines]
    if lines:
        terminalreporter.section("fastperf")
        for line in lines:
            terminalreporter.line(line)


def _check(
    item: pytest.Item, watch: FastPerf, run: _Run, requests: tuple[Request, ...], findings: tuple[Any, ...]
) -> None:
    """Fail a test that exceeds its budget."""
    marked = budget_of(item, run.default)
    budget = marked or run.default
    complaint = watch.blindness(budget, requests) if marked else ""
    if complaint:
        pytest.fail(complaint, pytrace=False)
    violations = budget.violations(requests, findings, run.names)
    run.seen.exceed(baseline.adopted(violation for violation in violations if _may_be_known(violation)))
    failing = [each for each in violations if not _is_known(each, run)]
    if failing:
        pytest.fail(told(failing), pytrace=False)


def _is_known(violation: Violation, run: _Run) -> bool:
    return _may_be_known(violation) and (run.updates or run.baseline.knows(violation))


def _may_be_known(violation: Violation) -> bool:
    # durations differ between machines
    return violation.name.kind != MAX_SECONDS


def _written(run: _Run) -> Iterator[str]:
    """Write the requested files; yield lines about them and about stale entries."""
    routes = run.seen.requested()
    stale = run.baseline.stale(run.seen.seen(), routes)
    if run.baseline_path is not None and run.updates:
        updated = run.baseline.updated(run.seen.exceeded, routes)
        run.baseline_path.write_text(updated.text(), "utf-8")
        fresh = len(updated.known.keys() - run.baseline.known.keys())
        gone = len(run.baseline.known.keys() - updated.known.keys())
        yield f"baseline {run.baseline_path.name}: {len(updated.known)} known, {fresh} of them new; {gone} removed"
    elif stale:
        yield f"stale entries of the baseline (--fastperf-update-baseline removes them from {run.baseline_path}):"
        yield from (f"  {' '.join(filter(None, name[:3]))}: {name.subject}".removesuffix(": ") for name in stale)
    if run.report_path is not None:
        run.report_path.write_text(session.report(run.seen, run.baseline.known, run.names), "utf-8")
        yield f"report: {run.report_path}"


def _default_budget(config: pytest.Config) -> Limits:
    queries = str(config.getini("fastperf_max_queries") or "")
    if queries and not queries.isdecimal():
        message = f"fastperf_max_queries={queries!r}: must be a number. Remedy: set one, such as 20."
        raise pytest.UsageError(message)
    forbid = checked_kinds(config.getini("fastperf_forbid"), "fastperf_forbid")
    return Limits(max_queries=int(queries) if queries else None, forbid=forbid)


def _baseline_path(config: pytest.Config) -> Path | None:
    given = config.getoption("fastperf_baseline")
    if given:
        return config.invocation_params.dir / str(given)
    configured = str(config.getini("fastperf_baseline") or "")
    folder = config.rootpath if config.inipath is None else config.inipath.parent
    return folder / configured if configured else None


def _app_named(target: str) -> Any:
    """The app of the option `fastperf_app`, or None if it is empty."""
    if not target:
        return None
    try:
        return load_app(target, factory_remedy="override the fixture fastperf_app with one that returns its result")
    except AppError as error:
        message = f"fastperf_app: {error}"
        raise pytest.UsageError(message) from error

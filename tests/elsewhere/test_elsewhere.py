"""On macOS, on Windows and in a sandbox without `/proc` an app is observed too, and `describe()` says what is off.

They are simulated: see `systems`.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_args

import pytest

from tests.elsewhere.systems import System
from tests.serving import ROOT

SYSTEMS: tuple[System, ...] = get_args(System)

Told = Callable[[System], dict[str, Any]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What the service tells on each system."""
    folder = tmp_path_factory.mktemp("systems")
    done = subprocess.run(
        [sys.executable, "-m", "tests.elsewhere.observed", str(folder), *SYSTEMS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return lambda system: json.loads((folder / f"{system}.json").read_text())


on_each_system = pytest.mark.parametrize("system", SYSTEMS)


@on_each_system
def test_every_module_is_imported_and_the_app_answers(told: Told, system: System) -> None:
    answer = told(system)
    assert answer["system"] == {"sandbox": "linux"}.get(system, system)
    assert answer["modules"] > 200
    assert answer["status"] == [200, 200, 200]
    assert answer["debug"] == 200


@on_each_system
def test_requests_and_statements_are_counted_and_traced(told: Told, system: System) -> None:
    answer = told(system)
    assert "http_server_request_duration_seconds_count{" in answer["page"]
    assert re.search(r"^db_client_operation_duration_seconds_count{.* 3.0$", answer["page"], re.MULTILINE)
    assert answer["spans"].count("GET /items/{item_id}") == answer["spans"].count("SELECT") == 3
    assert answer["pushes"] >= 1


@on_each_system
def test_nothing_fails_inside(told: Told, system: System) -> None:
    failures = re.findall(r"^fastperf_telemetry_errors_total.* (?!0\.0$)\S+$", told(system)["page"], re.MULTILINE)
    assert failures == []


@on_each_system
def test_what_blocks_the_loop_is_found_with_its_cause(told: Told, system: System) -> None:
    answer = told(system)
    assert {("blocking_call", "/asleep"), ("blocking_call", "/computing")} <= {*map(tuple, answer["findings"])}
    assert "blocking_call at elsewhere/observed.py:" in answer["report"]


@on_each_system
def test_the_handle_says_what_is_off(told: Told, system: System) -> None:
    parts = dict(line.split(": ", 1) for line in told(system)["describe"].splitlines())
    assert parts["workers"].startswith("off, needs Linux and its /proc: of several processes each answers for itself.")
    assert parts["memory"] == "on, garbage collector; not RSS, USS, cgroup, which this system does not tell"
    assert parts["event loop"].endswith("; why it is blocked is inferred, since this system hides threads' schedules")
    assert parts["awaiting"].endswith("; whether a thread computes or waits is inferred")
    assert [name for name, state in parts.items() if state.startswith("off")] == ["workers", "graphql", "logs export"]


@on_each_system
def test_shutdown_undoes_it(told: Told, system: System) -> None:
    assert told(system)["handle"] is False

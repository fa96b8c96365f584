"""Faults that burn CPU take equally long on every machine. `DEMO_SPEED` simulates slower and faster ones."""

import time
from pathlib import Path

import pytest

from demo.bottlenecks import cache_inefficient, slow_middleware
from demo.burning import at_speed, calibrated, emulated_speed
from demo.catalogue import CATALOGUE
from tests.demo.findings import findings_of_a_run

#: a machine a third as fast as this one, and one three times as fast
every_speed = pytest.mark.parametrize("speed", ["0.3", "3"])


@pytest.fixture(params=["0.3", "1", "3"])
def speed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setenv("DEMO_SPEED", request.param)
    return float(request.param)


@every_speed
@pytest.mark.timeout(300)  # a run of all bottlenecks takes a minute, and is repeated if something was wrong
def test_the_demo_finds_every_bottleneck_and_no_twin_on_slow_and_fast_machines(speed: str, tmp_path: Path) -> None:
    run = findings_of_a_run(tmp_path, f"sqlite:///{tmp_path}/shop.sqlite3", "asyncio", {"DEMO_SPEED": speed})
    assert run.wrong() == [], run.findings
    assert len(CATALOGUE) >= 17


def cpu_seconds(work: object, *arguments: int) -> float:
    assert callable(work)
    started = time.thread_time()
    work(*arguments)
    return time.thread_time() - started


def test_deriving_a_key_takes_equally_long_on_every_machine(speed: float) -> None:
    rounds = calibrated(slow_middleware.derive_key, slow_middleware.DERIVING_SECONDS, first=1_000)
    taken = min(cpu_seconds(slow_middleware.derive_key, rounds) for _ in range(5))
    assert 0.5 < taken / slow_middleware.DERIVING_SECONDS < 2


def test_a_page_of_shipping_costs_takes_equally_long_on_every_machine(speed: float) -> None:
    routes = cache_inefficient.calibrated_routes()

    def page(routes: int) -> None:
        for product in cache_inefficient.PRODUCTS:
            cache_inefficient.cheapest_route(product, routes)

    taken = min(cpu_seconds(page, routes) for _ in range(5))
    assert 0.5 < taken / cache_inefficient.PAGE_SECONDS < 2


def test_a_step_does_less_work_on_a_faster_machine(speed: float) -> None:
    assert at_speed(40_000) == round(40_000 / speed)


def test_calibration_finds_the_steps_that_fill_the_time() -> None:
    now = 0.0

    def work(steps: int) -> None:
        nonlocal now
        now += steps * 0.001

    assert calibrated(work, 1.0, first=1, clock=lambda: now) == 1_000
    assert calibrated(work, 1.0, first=50_000, clock=lambda: now) == 1_000
    assert calibrated(work, 1.0, first=1, most=10, clock=lambda: now) == 10


def test_an_interruption_of_the_calibration_does_not_count() -> None:
    now, interruptions = 0.0, iter([5.0])

    def work(steps: int) -> None:
        nonlocal now
        now += steps * 0.001 + next(interruptions, 0.0)

    assert calibrated(work, 1.0, first=500, clock=lambda: now) == 1_000


@pytest.mark.parametrize("text", ["0", "-1", "fast", "nan", "inf"])
def test_a_speed_that_is_not_a_positive_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"DEMO_SPEED is '{text}', but must be a positive number. Remedy: unset it."):
        emulated_speed({"DEMO_SPEED": text})


def test_without_the_variable_the_real_speed_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMO_SPEED", raising=False)
    assert [at_speed(1), at_speed(40_000)] == [1, 40_000]

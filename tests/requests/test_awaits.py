"""The sums of samples: for which time a sample stands, and how many different things are kept."""

import pytest

from otel_fastperf.findings import CallSite
from otel_fastperf.requests.awaits import (
    MOST_OF_REQUEST,
    MOST_OF_ROUTE,
    MOST_ROUTES,
    OTHERS,
    Awaited,
    Awaits,
    AwaitsOfRoutes,
)

GET = Awaited("httpx", "AsyncClient.get", CallSite("/srv/shop/prices.py", 14, "price"))
LOCK = Awaited("asyncio", "Lock.acquire", CallSite("/srv/shop/stock.py", 20, "reserve"))


def awaits() -> Awaits:
    """Of a request that reached the threshold at 10.0."""
    return Awaits(10.0)


def test_the_first_sample_counts_from_the_threshold() -> None:
    record = awaits()
    record.seen((GET,), 10.2, 10.2, 10.2)
    assert record.seconds == {GET: pytest.approx(0.2)}


def test_the_first_sample_counts_from_the_suspension_if_that_was_earlier() -> None:
    record = awaits()
    record.seen((GET,), 10.2, 10.2, 9.9)
    assert record.seconds == {GET: pytest.approx(0.3)}


def test_the_time_between_two_samples_is_halved() -> None:
    record = awaits()
    record.seen((GET,), 10.2, 10.2, 10.2)
    record.seen((LOCK,), 10.6, 10.6, 10.6)
    assert record.seconds == {GET: pytest.approx(0.4), LOCK: pytest.approx(0.2)}


def test_the_time_since_a_suspension_between_two_samples_belongs_to_the_later_one() -> None:
    record = awaits()
    record.seen((GET,), 10.2, 10.2, 10.2)
    record.seen((LOCK,), 10.6, 10.6, 10.3)
    assert record.seconds == {GET: pytest.approx(0.25), LOCK: pytest.approx(0.35)}


def test_the_time_after_the_last_sample_belongs_to_it() -> None:
    record = awaits()
    record.seen((GET,), 10.2, 10.2, 10.2)
    record.end(0.3)
    record.end(0.3)
    assert record.seconds == {GET: pytest.approx(0.5)}


def test_branches_share_the_time() -> None:
    record = awaits()
    record.seen((GET, LOCK), 10.2, 10.2, 10.2)
    assert record.seconds == {GET: pytest.approx(0.1), LOCK: pytest.approx(0.1)}


def test_nothing_is_known_about_the_time_in_which_a_look_was_late() -> None:
    """The event loop was blocked since 10.1: what the request awaits now tells nothing about that time."""
    record = awaits()
    record.seen((GET,), 10.5, 10.1, 10.5)
    record.seen((GET,), 10.6, 10.6, 10.6)
    assert record.seconds == {GET: pytest.approx(0.2)}


def test_the_number_of_different_things_is_limited() -> None:
    record = awaits()
    for number in range(MOST_OF_REQUEST + 10):
        record.seen((Awaited("shop", f"f{number}"),), 11.0 + number, 11.0 + number, 11.0 + number)
    assert len(record.seconds) == MOST_OF_REQUEST + 1
    assert record.seconds[OTHERS] == pytest.approx(9.5, abs=0.6)
    assert sum(record.seconds.values()) == pytest.approx(MOST_OF_REQUEST + 10)


def test_a_route_sums_up_its_requests_most_seconds_first() -> None:
    routes = AwaitsOfRoutes()
    routes.add("GET", "/items", {GET: 1.0, LOCK: 1.5})
    routes.add("GET", "/items", {GET: 1.0})
    routes.add("POST", "/items", {LOCK: 1.0})
    assert list(routes.by_route()["GET", "/items"].items()) == [(GET, 2.0), (LOCK, 1.5)]
    assert routes.by_route()["POST", "/items"] == {LOCK: 1.0}


def test_code_that_computes_has_the_line_with_the_most_seconds() -> None:
    lines = [Awaited("", "", CallSite("/srv/shop/a.py", line, "total"), computing=True) for line in (3, 4, 5)]
    routes = AwaitsOfRoutes()
    routes.add("GET", "/", dict(zip(lines, (0.1, 0.5, 0.2), strict=True)))
    assert routes.by_route()["GET", "/"] == {lines[1]: pytest.approx(0.8)}


def test_the_numbers_of_routes_and_of_lines_are_limited() -> None:
    routes = AwaitsOfRoutes()
    for number in range(MOST_OF_ROUTE + 10):
        routes.add("GET", "/", {Awaited("shop", f"f{number}"): 1.0})
    for number in range(MOST_ROUTES + 10):
        routes.add("GET", f"/{number}", {GET: 1.0})
    known = routes.by_route()
    assert len(known) == MOST_ROUTES
    assert len(known["GET", "/"]) == MOST_OF_ROUTE + 1
    assert known["GET", "/"][OTHERS] == 10.0


def test_texts() -> None:
    assert str(GET) == "awaiting httpx AsyncClient.get at shop/prices.py:14 in price"
    assert str(Awaited("hashlib", "hashlib.pbkdf2_hmac", computing=True)) == "computing hashlib.pbkdf2_hmac"
    assert str(Awaited("", "", computing=True)) == "computing"
    assert str(OTHERS) == "awaiting"

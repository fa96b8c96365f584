"""The shop works on both databases."""

import csv
import io

import httpx
import pytest

from demo.seed import ORDERS

pytestmark = pytest.mark.anyio


async def test_products_are_found_by_words_and_shown_with_their_rating(shop: httpx.AsyncClient) -> None:
    found = (await shop.get("/products", params={"q": "oak table"})).json()
    assert found
    assert all("oak table" in product["name"].lower() for product in found)

    page = (await shop.get(f"/products/{found[0]['id']}")).json()
    assert page["name"] == found[0]["name"]
    assert 1 <= page["stars"] <= 5
    assert (await shop.get("/products/0")).status_code == 404


async def test_an_order_is_placed_shown_and_confirmed_after_the_response(shop: httpx.AsyncClient) -> None:
    basket = {"user_id": 3, "items": [{"product_id": 7, "quantity": 2}, {"product_id": 8, "quantity": 1}]}
    placed = (await shop.post("/orders", json=basket)).json()
    assert [item["product_id"] for item in placed["items"]] == [7, 8]

    shown = (await shop.get(f"/orders/{placed['id']}")).json()
    assert shown["items"] == placed["items"] == (await shop.get(f"/orders/{placed['id']}/items")).json()
    assert shown["status"] == "confirmed"
    assert placed["id"] in [order["id"] for order in (await shop.get("/users/3/orders")).json()]


async def test_an_order_for_unknown_customers_or_products_is_refused(shop: httpx.AsyncClient) -> None:
    unknown_user = {"user_id": 0, "items": [{"product_id": 7, "quantity": 2}]}
    unknown_product = {"user_id": 3, "items": [{"product_id": 0, "quantity": 2}]}
    assert (await shop.post("/orders", json=unknown_user)).status_code == 404
    assert (await shop.post("/orders", json=unknown_product)).status_code == 404
    assert (await shop.post("/orders", json={"user_id": 3, "items": []})).status_code == 422


async def test_an_address_can_sign_up_only_once(shop: httpx.AsyncClient) -> None:
    new = {"name": "Ada", "email": "ada@example.org"}
    made = await shop.post("/users", json=new)
    assert made.status_code == 201
    assert (await shop.get(f"/users/{made.json()['id']}")).json()["email"] == "ada@example.org"
    assert (await shop.post("/users", json=new)).status_code == 409


async def test_reports_count_all_sales_and_the_export_has_every_order(shop: httpx.AsyncClient) -> None:
    days = (await shop.get("/reports/sales", params={"days": 366})).json()
    assert sum(day["orders"] for day in days) >= ORDERS

    export = await shop.get("/reports/orders.csv")
    assert export.headers["content-type"].startswith("text/csv")
    orders = list(csv.DictReader(io.StringIO(export.text)))
    assert [int(order["id"]) for order in orders] == list(range(1, len(orders) + 1))
    assert len(orders) == sum(day["orders"] for day in days)


async def test_the_clock_ticks_as_server_sent_events(shop: httpx.AsyncClient) -> None:
    clock = await shop.get("/clock", params={"ticks": 3, "seconds": 0.01})
    assert clock.headers["content-type"].startswith("text/event-stream")
    assert clock.text.count("\ndata: ") == 3


# Starlette's BaseHTTPMiddleware of 2024 leaves a stream open if a response is truncated
@pytest.mark.filterwarnings("ignore:.*MemoryObject:pytest.PytestUnraisableExceptionWarning")
async def test_one_endpoint_fails_before_the_response_and_one_within_it(shop: httpx.AsyncClient) -> None:
    assert (await shop.get("/failures/before-response")).status_code == 500
    cut_short = await shop.get("/failures/after-first-byte")
    assert (cut_short.status_code, cut_short.text) == (200, "the first half\n")
    assert (await shop.get("/health")).json() == {"status": "ok"}

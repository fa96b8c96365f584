"""Healthy and busy: a shop of twenty routes. Some are slow by nature, and none has a fault.

Async and threaded endpoints, a database, another service, streams, uploads, background tasks, websockets, middleware.
"""

import asyncio
import functools
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import httpx
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKey, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("GET /products?page={n}", at_once=2, pause=0.08),
        Send("GET /products/{n}", at_once=1, pause=0.1),
        Send("GET /products/{n}/price", at_once=1, pause=0.2),
        Send("POST /products", at_once=1, pause=0.3, body={"name": "lamp", "price": 12}),
        Send("GET /orders", at_once=1, pause=0.15),
        Send("POST /orders", at_once=1, pause=0.3, body={"products": [1, 2, 3]}),
        Send("GET /orders/{n}", at_once=1, pause=0.2),
        Send("GET /orders/export.csv", at_once=1, pause=1.5),
        Send("POST /login", at_once=1, pause=1.0, body={"name": "ann", "password": "x"}),
        Send("GET /session", at_once=1, pause=0.3),
        Send("POST /images", at_once=1, pause=0.6, size=250_000),
        Send("GET /images/{n}", at_once=1, pause=0.4),
        Send("GET /events", at_once=2, pause=0.5),
        Send("GET /notifications", at_once=2, pause=0.1),
        Send("GET /search?q=lamp", at_once=1, pause=0.4),
        Send("GET /rates", at_once=1, pause=0.2),
        Send("GET /statistics", at_once=1, pause=1.0),
        Send("POST /newsletter", at_once=1, pause=0.5),
        Send("GET /health", at_once=1, pause=0.2),
        Send("GET /legacy/report", at_once=2, pause=0.4),
        Send("GET /nowhere/{n}", at_once=1, pause=1.0),
        Send("WS /live", at_once=2, pause=0.3),
        Send("GET /events", at_once=1, pause=1.0, leave=0.5),
    ),
    lasts=120.0,
    seconds=200.0,
    databases=("sqlite", "postgresql"),
    neighbour=True,
    twin=False,
    quick=True,
)

engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=10)
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    price: Mapped[int]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    items: Mapped[list["Item"]] = relationship()


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"))
    product: Mapped[Product] = relationship()


class ProductIn(BaseModel):
    name: str
    price: int


class ProductOut(ProductIn):
    model_config = ConfigDict(from_attributes=True)
    id: int


class ItemOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    product: ProductOut


class OrderOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    state: str
    items: list[ItemOut]


class OrderIn(BaseModel):
    products: list[int]


class Login(BaseModel):
    name: str
    password: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with new_session.begin() as session:
        session.add_all(Product(name=f"product {number}", price=number) for number in range(500))
        session.add_all(
            Order(state="paid", items=[Item(product_id=1 + (number + step) % 500) for step in range(4)])
            for number in range(200)
        )
    async with httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"], timeout=5) as app.state.rates:
        yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
app.add_middleware(GZipMiddleware)


@app.middleware("http")
async def request_id(request: Request, call_next: Any) -> Any:
    response = await call_next(request)
    response.headers["x-request-id"] = uuid.uuid4().hex
    return response


setup_telemetry(app)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


DB = Annotated[AsyncSession, Depends(get_session)]
products = APIRouter(prefix="/products")
orders = APIRouter(prefix="/orders")


@products.get("")
async def list_products(session: DB, page: int = 1) -> list[ProductOut]:
    query = select(Product).where(Product.id > page % 20 * 20).order_by(Product.id).limit(20)
    return [ProductOut.model_validate(product) for product in await session.scalars(query)]


@products.get("/{product_id}")
async def one_product(product_id: int, session: DB) -> ProductOut:
    found = await session.get(Product, product_id)
    if found is None:
        raise HTTPException(404)
    return ProductOut.model_validate(found)


@products.get("/{product_id}/price")
async def price(product_id: int, session: DB, request: Request) -> dict[str, float]:
    found = await session.get(Product, 1 + product_id % 500)
    rate = (await request.app.state.rates.get("/wait/15")).json()["rate"]
    return {"price": found.price * rate}


@products.post("", status_code=201)
async def add_product(new: ProductIn, session: DB) -> ProductOut:
    product = Product(**new.model_dump())
    session.add(product)
    await session.commit()
    return ProductOut.model_validate(product)


@orders.get("")
async def list_orders(session: DB) -> list[OrderOut]:
    loaded = selectinload(Order.items).selectinload(Item.product)
    found = await session.scalars(select(Order).options(loaded).order_by(Order.id.desc()).limit(10))
    return [OrderOut.model_validate(order) for order in found]


@orders.post("", status_code=201)
async def place(new: OrderIn, session: DB, tasks: BackgroundTasks) -> dict[str, int]:
    order = Order(state="new", items=[Item(product_id=product) for product in new.products])
    session.add(order)
    await session.commit()
    tasks.add_task(confirm, order.id)
    return {"id": order.id}


async def confirm(order_id: int) -> None:
    await asyncio.sleep(0.2)
    async with new_session.begin() as session:
        order = await session.get(Order, order_id)
        order.state = "confirmed"


@orders.get("/export.csv")
async def export() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        async with new_session() as session:
            rows = await session.stream(select(Order.id, Order.state).limit(400).execution_options(yield_per=100))
            async for order_id, state in rows:
                yield f"{order_id},{state}\n"

    return StreamingResponse(lines(), media_type="text/csv")


@orders.get("/{order_id}")
async def one_order(order_id: int, session: DB) -> OrderOut:
    loaded = selectinload(Order.items).selectinload(Item.product)
    found = await session.scalar(select(Order).options(loaded).where(Order.id == order_id % 200 + 1))
    return OrderOut.model_validate(found)


app.include_router(products)
app.include_router(orders)


@app.post("/login")
def login(credentials: Login) -> dict[str, str]:
    """Slow on purpose, in a thread."""
    return {"hash": hashlib.pbkdf2_hmac("sha256", credentials.password.encode(), b"salt", 60_000).hex()}


@functools.lru_cache(maxsize=100)
def permissions(role: str) -> frozenset[str]:
    return frozenset({role, "read"})


@app.get("/session")
def session_info() -> dict[str, list[str]]:
    return {"permissions": sorted(permissions("customer"))}


@app.post("/images")
async def upload(request: Request) -> dict[str, str]:
    digest = hashlib.sha256()
    async for piece in request.stream():
        digest.update(piece)
    return {"digest": digest.hexdigest()}


@app.get("/images/{number}")
async def image(number: int) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"\0" * 16_384
            await asyncio.sleep(0)

    return StreamingResponse(pieces(), media_type="image/png")


@app.get("/events")
async def events() -> StreamingResponse:
    """Lasts two seconds, as a feed does."""

    async def feed() -> AsyncIterator[str]:
        for number in range(10):
            yield f"data: {number}\n\n"
            await asyncio.sleep(0.2)

    return StreamingResponse(feed(), media_type="text/event-stream")


@app.get("/notifications")
async def notifications() -> list[str]:
    """Long polling: waits for news, mostly in vain."""
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.8)
    except TimeoutError:
        return []
    return ["news"]


@app.get("/search")
async def search(q: str, session: DB) -> list[str]:
    return list(await session.scalars(select(Product.name).where(Product.name.startswith(q)).limit(20)))


@app.get("/rates")
async def rates(request: Request) -> dict[str, float]:
    client = request.app.state.rates
    one, two = await asyncio.gather(client.get("/items/eur/20"), client.get("/items/usd/25"))
    return {"eur": one.json()["rate"], "usd": two.json()["rate"]}


@app.get("/statistics")
async def statistics(session: DB) -> dict[str, int]:
    total = await session.scalar(select(func.count()).select_from(Order))
    value = await session.scalar(select(func.sum(Product.price)).select_from(Item).join(Product))
    return {"orders": total, "value": value or 0}


@app.post("/newsletter", status_code=202)
def newsletter(tasks: BackgroundTasks) -> dict[str, bool]:
    tasks.add_task(time.sleep, 0.3)
    return {"accepted": True}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


legacy = FastAPI()


@legacy.get("/report")
def report() -> PlainTextResponse:
    """A `def` endpoint that waits a little, in a thread."""
    time.sleep(0.08)
    return PlainTextResponse("report " * 300)


app.mount("/legacy", legacy)


@app.websocket("/live")
async def live(socket: WebSocket) -> None:
    await socket.accept()
    await socket.receive_text()
    for number in range(5):
        await socket.send_json({"number": number})
        await asyncio.sleep(0.1)
    await socket.close()

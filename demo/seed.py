"""The shop's initial data: the same in every run, written in well under a second on SQLite."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

from sqlalchemy import (
    URL,
    Connection,
    Integer,
    String,
    cast,
    insert,
    inspect,
    literal,
    select,
    text,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import CreateSchema, DropSchema

from demo.burning import at_speed
from demo.database import SCHEMA, sync_engine
from demo.models import Base, Item, Order, Product, Review, User, Visit

USERS: Final = 200
PRODUCTS: Final = 150
ORDERS: Final = 2_000
REVIEWS: Final = 3_000
VISITS: Final = 80_000

_FIRST_DAY: Final = datetime(2025, 1, 1)  # noqa: DTZ001 - the tables hold UTC without a zone
_FIRST: Final = ("Ada", "Alan", "Barbara", "Dennis", "Edsger", "Frances", "Grace", "Ken", "Margaret", "Radia")
_LAST: Final = ("Archer", "Baker", "Carter", "Dyer", "Fisher", "Mason", "Miller", "Potter", "Smith", "Weaver")
_KINDS: Final = ("kettle", "lamp", "mug", "notebook", "pan", "pillow", "plant", "poster", "scarf", "table")
_LOOKS: Final = ("blue", "brass", "oak", "small", "striped", "tall", "white", "woollen")
_PAID: Final = ("paid", "paid", "sent", "sent", "sent", "returned")


def seed(url: URL) -> bool:
    """Create and fill the tables unless they exist; True if this call did. Several workers may call it at once."""
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sync_engine(url)
    try:
        with engine.connect() as connection, connection.begin():
            _lock(connection)
            if inspect(connection).has_table(User.__tablename__):
                return False
            Base.metadata.create_all(connection, checkfirst=False)
            _fill(connection)
            return True
    finally:
        engine.dispose()


def clear(url: URL) -> None:
    """Remove the tables of `seed` from PostgreSQL; deleting a SQLite file is left to the caller."""
    if url.get_backend_name() == "postgresql":
        engine = sync_engine(url)
        with engine.begin() as connection:
            connection.execute(DropSchema(SCHEMA, cascade=True, if_exists=True))
        engine.dispose()


def _lock(connection: Connection) -> None:
    """Wait until no other worker is seeding. WAL lets readers and a writer run concurrently, as on a real server."""
    if connection.dialect.name == "sqlite":
        # this fails with "database is locked" at once, without a timeout, if another worker is doing it
        with suppress(OperationalError):
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": 4_318})
        connection.execute(CreateSchema(SCHEMA, if_not_exists=True))


def _fill(connection: Connection) -> None:
    random = Random(4_317)
    connection.execute(insert(User), list(_users()))
    connection.execute(insert(Product), list(_products(random)))
    connection.execute(insert(Order), list(_orders(random)))
    connection.execute(insert(Item), list(_items(random)))
    connection.execute(insert(Review), list(_reviews(random)))
    connection.execute(_visits())
    for table in Base.metadata.tables:
        # collect the planner's statistics
        connection.exec_driver_sql(f"ANALYZE {table}")


def _users() -> Iterator[dict[str, Any]]:
    for number in range(1, USERS + 1):
        name = f"{_FIRST[number % 10]} {_LAST[number // 10 % 10]}"
        joined = _FIRST_DAY + timedelta(hours=number)
        yield {"name": name, "email": f"customer{number}@example.org", "joined_at": joined}


def _products(random: Random) -> Iterator[dict[str, Any]]:
    for number in range(1, PRODUCTS + 1):
        look, kind = random.choice(_LOOKS), random.choice(_KINDS)
        yield {
            "name": f"{look.title()} {kind} {number}",
            "description": f"A {look} {kind}, made to last.",
            "price_cents": random.randrange(500, 20_000, 50),
            "stock": random.randrange(100_000, 1_000_000),
        }


def _orders(random: Random) -> Iterator[dict[str, Any]]:
    for number in range(1, ORDERS + 1):
        placed = _FIRST_DAY + timedelta(days=30, minutes=20 * number)
        yield {"user_id": random.randint(1, USERS), "placed_at": placed, "status": random.choice(_PAID)}


def _items(random: Random) -> Iterator[dict[str, Any]]:
    for order in range(1, ORDERS + 1):
        for product in random.sample(range(1, PRODUCTS + 1), random.randint(1, 5)):
            price = 500 + product * 37
            yield {"order_id": order, "product_id": product, "quantity": random.randint(1, 3), "price_cents": price}


def _reviews(random: Random) -> Iterator[dict[str, Any]]:
    for _ in range(REVIEWS):
        yield {
            "product_id": random.randint(1, PRODUCTS),
            "user_id": random.randint(1, USERS),
            "stars": random.choice((1, 2, 3, 4, 4, 5, 5)),
            "text": "Does what it should.",
        }


def _visits() -> Any:
    """Generate the rows in the database: they are too many to send."""
    visits = at_speed(VISITS)
    counter = select(literal(1, Integer).label("i")).cte("numbers", recursive=True)
    numbers = counter.union_all(select(counter.c.i + 1).where(counter.c.i < visits))
    user = (numbers.c.i - 1) // (visits // USERS) + 1
    email = literal("customer") + cast(user, String) + literal("@example.org")
    path = literal("/products/") + cast(numbers.c.i * 31 % PRODUCTS + 1, String)
    return insert(Visit).from_select(["user_id", "email", "path"], select(user, email, path).order_by(numbers.c.i))

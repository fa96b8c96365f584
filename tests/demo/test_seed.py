"""The seed: the same data in every run, written once, and removed again."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import URL, func, inspect, make_url, select

from demo.database import SCHEMA, database_url, sync_engine
from demo.models import Base, Order, Visit
from demo.seed import clear, seed


def test_workers_that_start_together_seed_once(url: URL) -> None:
    with ThreadPoolExecutor(4) as workers:
        assert sorted(workers.map(seed, [url] * 4)) == [False, False, False, True]


def test_the_data_is_the_same_on_every_database(url: URL) -> None:
    seed(url)
    engine = sync_engine(url)
    with engine.connect() as connection:
        tables = Base.metadata.tables.items()
        rows = {name: connection.scalar(select(func.count()).select_from(table)) for name, table in tables}
        orders = connection.scalar(select(func.sum(Order.user_id * Order.id)))
        visit = connection.execute(select(Visit.email, Visit.path).where(Visit.id == 1_000)).one()
    engine.dispose()
    assert rows == {"users": 200, "products": 150, "orders": 2_000, "items": 5_950, "reviews": 3_000, "visits": 80_000}
    assert orders == 202_233_550
    assert tuple(visit) == ("customer3@example.org", "/products/101")


def test_the_tables_in_postgresql_are_removed_at_the_end(postgresql_url: str) -> None:
    server = make_url(postgresql_url)
    seed(server)
    clear(server)
    engine = sync_engine(server)
    assert SCHEMA not in inspect(engine).get_schema_names()
    engine.dispose()


def test_an_unsupported_database_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="DATABASE_URL is for mysql; the demo runs on sqlite and postgresql"):
        database_url({"DATABASE_URL": "mysql://localhost/shop"})

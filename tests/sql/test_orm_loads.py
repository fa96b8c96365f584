"""The purpose of a statement, read from SQLAlchemy's execution context, in all versions of SQLAlchemy."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, StaticPool, create_engine, event, insert, select, text, update
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    immediateload,
    joinedload,
    lazyload,
    mapped_column,
    selectinload,
    subqueryload,
)

from otel_fastperf.sql.orm_loads import Load, LoadKind, Missing, PathStep, load_of
from tests.models import Customer, Item, Order, fill

Work = Callable[[Session], Any]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        fill(connection)
    yield engine
    engine.dispose()


def loads(engine: Engine, work: Work) -> list[Load]:
    """The purpose of each statement that `work` runs."""
    found: list[Load] = []

    def listen(*arguments: Any) -> None:
        found.append(load_of(arguments[4]))

    with Session(engine) as session:
        event.listen(engine, "before_cursor_execute", listen)
        work(session)
        event.remove(engine, "before_cursor_execute", listen)
    return found


def orders(session: Session, *options: Any) -> list[Order]:
    return list(session.scalars(select(Order).limit(1).options(*options)).unique())


@pytest.mark.parametrize(
    ("attribute", "many"), [("items", True), ("customer", False), ("note", False)], ids=["o2m", "m2o", "o2o"]
)
def test_a_lazy_load_has_its_relationship(engine: Engine, attribute: str, many: bool) -> None:
    found = loads(engine, lambda session: getattr(orders(session)[0], attribute))
    assert found[1:] == [Load(LoadKind.LAZY, "Order", attribute, many)]


def test_a_lazy_load_of_a_legacy_query_has_its_relationship(engine: Engine) -> None:
    found = loads(engine, lambda session: session.query(Order).limit(1).all()[0].items)
    assert found[-1] == Load(LoadKind.LAZY, "Order", "items", many=True)


def test_immediate_loads_count_as_lazy_loads(engine: Engine) -> None:
    found = loads(engine, lambda session: orders(session, immediateload(Order.items)))
    assert found[1:] == [Load(LoadKind.LAZY, "Order", "items", many=True)]


@pytest.mark.parametrize("option", [selectinload(Order.items), subqueryload(Order.items), selectinload(Order.customer)])
def test_a_batch_of_an_eager_load_is_eager(engine: Engine, option: Any) -> None:
    found = loads(engine, lambda session: orders(session, option))
    assert [load.kind for load in found] == [LoadKind.QUERY, LoadKind.EAGER]


def test_eager_loads_below_eager_and_lazy_ones_are_eager(engine: Engine) -> None:
    nested = select(Customer).limit(1).options(selectinload(Customer.orders).selectinload(Order.items))
    found = loads(engine, lambda session: session.scalars(nested).all())
    assert [load.kind for load in found] == [LoadKind.QUERY, LoadKind.EAGER, LoadKind.EAGER]
    below = select(Customer).limit(1).options(lazyload(Customer.orders).selectinload(Order.items))
    found = loads(engine, lambda session: session.scalars(below).one().orders)
    assert [load.kind for load in found] == [LoadKind.QUERY, LoadKind.LAZY, LoadKind.EAGER]


def test_a_joined_load_is_one_query(engine: Engine) -> None:
    found = loads(engine, lambda session: orders(session, joinedload(Order.items)))
    assert [load.kind for load in found] == [LoadKind.QUERY]


def test_queries_of_the_application_are_no_orm_loads(engine: Engine) -> None:
    assert loads(engine, lambda session: session.get(Item, 1)) == [Load(LoadKind.QUERY, "Item")]
    assert loads(engine, lambda session: session.execute(text("SELECT 1"))) == [Load(LoadKind.QUERY)]
    assert loads(engine, lambda session: session.execute(select(Item.__table__))) == [Load(LoadKind.QUERY)]
    assert loads(engine, lambda session: session.connection().exec_driver_sql("SELECT 1")) == [Load(LoadKind.QUERY)]


@pytest.mark.parametrize("how", ["deferred", "expired", "refreshed"])
def test_reloading_an_instance_is_a_refresh(engine: Engine, how: str) -> None:
    def work(session: Session) -> None:
        customer = session.scalars(select(Customer).limit(1)).one()
        if how == "deferred":
            assert customer.biography == ""
        elif how == "expired":
            session.expire(customer)
            assert customer.name
        else:
            session.refresh(customer)

    names = ("biography",) if how == "deferred" else ()
    assert loads(engine, work)[1:] == [Load(LoadKind.REFRESH, "Customer", missing=Missing(how), names=names)]


def test_a_flush_differs_from_dml_of_the_application(engine: Engine) -> None:
    def flush(session: Session) -> None:
        session.add(Item(id=99, order_id=1))
        session.flush()

    assert {load.kind for load in loads(engine, flush)} == {LoadKind.FLUSH}
    dml = loads(engine, lambda session: session.execute(update(Item).where(Item.id == 1).values(name="ink")))
    assert dml[-1].kind is LoadKind.QUERY
    core = loads(engine, lambda session: session.connection().execute(insert(Item).values(order_id=1)))
    assert core[-1].kind is LoadKind.QUERY


@pytest.mark.parametrize(
    ("limit", "offset", "kind"),
    [
        (100, None, LoadKind.PAGE),
        (10, 30, LoadKind.PAGE),
        (10, 0, LoadKind.PAGE),
        (3, None, LoadKind.QUERY),
        (1, None, LoadKind.QUERY),
        (1, 4, LoadKind.QUERY),
    ],
)
def test_a_large_limit_or_an_offset_marks_a_page(
    engine: Engine, limit: int, offset: int | None, kind: LoadKind
) -> None:
    """A small limit, such as for the newest few of each item, does not, and neither does `.first()`."""
    statement = select(Item).order_by(Item.id).limit(limit).offset(offset)
    assert [load.kind for load in loads(engine, lambda session: session.scalars(statement).all())] == [kind]
    core = select(Item.id).limit(limit).offset(offset)
    assert [load.kind for load in loads(engine, lambda session: session.connection().execute(core))] == [kind]


def test_a_nested_lazy_load_has_the_way_from_the_query(engine: Engine) -> None:
    def work(session: Session) -> None:
        for customer in session.scalars(select(Customer).limit(1)):
            for order in customer.orders:
                assert order.note.id

    found = loads(engine, work)
    assert found[-1] == Load(LoadKind.LAZY, "Order", "note", path=(PathStep("Customer", "orders", many=True),))


def test_a_lazy_load_below_an_eager_load_has_the_way_from_the_query(engine: Engine) -> None:
    def work(session: Session) -> None:
        for customer in session.scalars(select(Customer).limit(1).options(selectinload(Customer.orders))):
            assert customer.orders[0].items

    found = loads(engine, work)
    assert found[-1] == Load(
        LoadKind.LAZY, "Order", "items", many=True, path=(PathStep("Customer", "orders", many=True),)
    )


def test_the_way_of_an_instance_that_was_selected_itself_is_empty(engine: Engine) -> None:
    def work(session: Session) -> None:
        for order in session.scalars(select(Order).limit(1)):
            assert order.customer.id
            assert order.note.id

    assert loads(engine, work)[-1] == Load(LoadKind.LAZY, "Order", "note")


def test_attributes_of_one_table_of_a_hierarchy_are_those_of_the_subclass(engine: Engine) -> None:
    def work(session: Session) -> None:
        for animal in session.scalars(select(Animal)):
            assert animal.name  # type: ignore[attr-defined]

    animals(engine)
    found = loads(engine, work)
    assert found[-1] == Load(LoadKind.REFRESH, "Cat", missing=Missing.SUBCLASS, names=("name",), base="Animal")


def test_values_that_the_database_computes_are_read_back(engine: Engine) -> None:
    def work(session: Session) -> None:
        cat = Cat(name="tom")
        session.add(cat)
        session.flush()
        assert cat.born

    animals(engine)
    found = loads(engine, work)
    assert found[-1] == Load(LoadKind.REFRESH, "Cat", missing=Missing.COMPUTED, names=("born",))


@pytest.mark.parametrize(("values", "kind"), [(20, LoadKind.PAGE), (2, LoadKind.QUERY)])
def test_many_values_are_a_batch(engine: Engine, values: int, kind: LoadKind) -> None:
    statement = select(Item).where(Item.id.in_(range(values)))
    assert loads(engine, lambda session: session.scalars(statement))[-1].kind is kind


class AnimalBase(DeclarativeBase):
    pass


class Animal(AnimalBase):
    __tablename__ = "fastperf_animals"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    born: Mapped[str] = mapped_column(server_default=text("'today'"))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal", "eager_defaults": False}  # noqa: RUF012


class Cat(Animal):
    __tablename__ = "fastperf_cats"
    id: Mapped[int] = mapped_column(ForeignKey("fastperf_animals.id"), primary_key=True)
    name: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012


def animals(engine: Engine) -> None:
    with Session(engine) as session:
        AnimalBase.metadata.create_all(session.connection())
        session.add(Cat(name="tom"))
        session.commit()

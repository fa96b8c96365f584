"""`n_plus_one`: which repeats are reported, and how."""

import pytest

from otel_fastperf.detectors.n_plus_one import detect_n_plus_one
from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.sql.orm_loads import Load, LoadKind, Missing, PathStep
from tests.detectors.records import LINE, changed, ended, repeated

ITEMS = Load(LoadKind.LAZY, "Order", "items", many=True)


def found(record: RequestRecord, settings: DatabaseSettings | None = None) -> list[Finding]:
    return list(detect_n_plus_one(record, settings or DatabaseSettings()))


def test_a_relationship_loaded_separately_is_named_with_its_loader() -> None:
    (finding,) = found(ended(repeated(times=50, load=ITEMS)))
    assert finding.kind == "n_plus_one"
    assert finding.subject == "Order.items"
    assert finding.call_site == LINE
    assert (
        finding.message
        == "'SELECT items' ran 50 times, 0.500 s in total: Order.items is loaded separately for each Order."
    )
    assert finding.remedy == "Load all of them at once: select(Order).options(selectinload(Order.items))."
    assert finding.seconds == pytest.approx(0.5)
    evidence = dict(finding.evidence)
    fingerprint = evidence.pop("db.query.fingerprint")
    assert isinstance(fingerprint, str)
    assert len(fingerprint) == 16
    assert evidence == {
        "repeats": 50,
        "seconds": pytest.approx(0.5),
        "share": pytest.approx(0.5),
        "relationship": "Order.items",
        "db.query.summary": "SELECT items",
        "db.query.text": "SELECT * FROM items WHERE items.order_id = ?",
        "db.system.name": "postgresql",
    }


def test_a_single_related_instance_is_loaded_by_a_join() -> None:
    (finding,) = found(ended(repeated(load=Load(LoadKind.LAZY, "Order", "customer"))))
    assert finding.remedy == "Load all of them at once: select(Order).options(joinedload(Order.customer))."


def test_if_only_libraries_run_the_endpoint_is_the_call_site() -> None:
    """As when the response model reads the relationship."""
    record = ended(repeated(load=ITEMS, lines={None: [8, 0.08]}))
    assert found(record)[0].call_site is None
    record.scope["endpoint"] = test_if_only_libraries_run_the_endpoint_is_the_call_site
    site = found(record)[0].call_site
    assert site is not None
    assert site.function == "test_if_only_libraries_run_the_endpoint_is_the_call_site"


@pytest.mark.parametrize(
    ("statement", "load", "remedy"),
    [
        ("SELECT * FROM items WHERE items.id = ?", LoadKind.QUERY, "WHERE items.id IN (…), or a JOIN"),
        ("SELECT count(*) FROM items", LoadKind.QUERY, "Run it once before the loop and keep the result"),
        ("SELECT count(*) FROM items WHERE id > ?", LoadKind.QUERY, "a JOIN, or GROUP BY for a figure per item"),
        ("SELECT * FROM items WHERE $1::INTEGER = items.order_id", LoadKind.QUERY, "WHERE items.order_id IN (…)"),
        ("DELETE FROM items", LoadKind.QUERY, "one statement for all of them"),
        ("UPDATE items SET a = ? WHERE id = ?", LoadKind.QUERY, "Change all rows at once: WHERE id IN (…)"),
        ("INSERT INTO items (a) VALUES (?)", LoadKind.QUERY, "Insert all rows at once"),
    ],
)
def test_the_remedy_fits_the_statement(statement: str, load: LoadKind, remedy: str) -> None:
    (finding,) = found(ended(repeated(statement, load=Load(load))))
    assert remedy in finding.remedy
    assert finding.subject == finding.evidence["db.query.summary"]


@pytest.mark.parametrize("kind", [LoadKind.EAGER, LoadKind.FLUSH, LoadKind.PAGE, LoadKind.OTHER])
def test_eager_loads_flushes_and_pages_are_not_reported(kind: LoadKind) -> None:
    assert found(ended(repeated(times=100, load=Load(kind)))) == []


@pytest.mark.parametrize(
    ("load", "remedy"),
    [
        (Load(LoadKind.REFRESH, "Customer", missing=Missing.DEFERRED, names=("cv",)), "undefer(Customer.cv)"),
        (Load(LoadKind.REFRESH, "Customer", missing=Missing.EXPIRED), "expire_on_commit=False"),
        (Load(LoadKind.REFRESH, "Customer", missing=Missing.EXPIRED, expires=False), "by a rollback or by expire()"),
        (Load(LoadKind.REFRESH, "Customer", missing=Missing.REFRESHED), "Leave out refresh() in the loop"),
        (Load(LoadKind.REFRESH, "Customer", missing=Missing.COMPUTED, names=("at",)), '"eager_defaults": True'),
        (
            Load(LoadKind.REFRESH, "Cat", missing=Missing.SUBCLASS, names=("name",), base="Animal"),
            "select(Animal).options(selectin_polymorphic(Animal, [Cat]))",
        ),
        (
            Load(LoadKind.LAZY, "Item", "product", path=(PathStep("Order", "items", many=True),)),
            "select(Order).options(selectinload(Order.items).joinedload(Item.product))",
        ),
        (
            Load(LoadKind.LAZY, "Cat", "toys", many=True, path=(PathStep("Zoo", "animals", many=True, of_type="Cat"),)),
            "select(Zoo).options(selectinload(Zoo.animals.of_type(Cat)).selectinload(Cat.toys))",
        ),
        (
            Load(LoadKind.LAZY, "Cat", "toys", many=True, base="Animal"),
            "select(Animal).options(selectin_polymorphic(Animal, [Cat]), selectinload(Cat.toys))",
        ),
        (
            Load(LoadKind.LAZY, "Node", "children", many=True, path=(PathStep("Node", "children", many=True),)),
            "select(Node).options(selectinload(Node.children, recursion_depth=-1))",
        ),
    ],
)
def test_the_remedy_fits_what_is_loaded(load: Load, remedy: str) -> None:
    (finding,) = found(ended(repeated(load=load)))
    assert remedy in finding.remedy


def test_the_same_values_each_time_are_read_once() -> None:
    (finding,) = found(ended(changed(repeated(), values=17)))
    assert "with the same values each time" in finding.message
    assert finding.remedy.startswith("Run it once before the loop and keep the result")


def test_the_loop_of_the_caller_is_named() -> None:
    loop = CallSite("/srv/shop/service.py", 40, "report")
    (finding,) = found(ended(changed(repeated(), loop=loop)))
    assert finding.call_site == loop
    assert finding.message.endswith(
        "one after the other, in shop/orders.py:41 in list_orders, called in a loop at shop/service.py:40 in report."
    )
    assert finding.evidence["statement_line"] == "shop/orders.py:41 in list_orders"
    assert finding.evidence["loop"] == "shop/service.py:40 in report"
    assert "loop" not in found(ended(changed(repeated(), loop=LINE)))[0].evidence


def test_a_flush_for_each_row_is_reported_and_one_flush_is_not() -> None:
    group = repeated("INSERT INTO items (a) VALUES (?)", load=Load(LoadKind.FLUSH))
    assert found(ended(group)) == []
    (finding,) = found(ended(changed(group, loop=LINE)))
    assert "Flush once, after the loop" in finding.remedy


def test_parallel_executions_that_one_statement_could_replace_are_reported() -> None:
    (finding,) = found(ended(repeated(times=100, parallel=True, load=ITEMS)))
    assert finding.seconds == pytest.approx(0.01)
    (finding,) = found(ended(repeated(times=100, parallel=True)))
    assert "once per item, in parallel" in finding.message
    ranges = repeated("SELECT count(*) FROM t WHERE a > ?", times=100, parallel=True)
    assert found(ended(ranges)) == []
    assert len(found(ended(changed(ranges, loop=LINE)))) == 1
    waiting = changed(repeated(times=12, seconds=0.001, parallel=True), last=5.0)
    assert len(found(ended(waiting, seconds=5.0))) == 1
    assert found(ended(repeated(times=5, parallel=True))) == []


def test_few_or_cheap_repeats_are_not_reported() -> None:
    assert found(ended(repeated(times=5))) == []
    assert found(ended(repeated(times=20, seconds=0.00009))) == []
    assert len(found(ended(repeated(times=5)), DatabaseSettings(n_plus_one=5))) == 1


def test_polling_is_not_reported() -> None:
    """A status every second, or a statement for each message of a stream."""
    assert found(ended(repeated(times=60, seconds=0.002, pause=1.0), seconds=60.0)) == []


def test_without_a_minimum_time_fast_repeats_between_slow_work_are_reported() -> None:
    record = ended(repeated(times=3, seconds=0.00001, pause=0.1))
    assert len(found(record, DatabaseSettings(n_plus_one=3, n_plus_one_seconds=0))) == 1


def test_a_websocket_is_not_reported() -> None:
    assert found(ended(repeated(times=60), kind="websocket")) == []


def test_repeats_of_different_lines_are_counted_by_line() -> None:
    other = CallSite("/srv/shop/users.py", 3, "current_user")
    assert found(ended(repeated(times=9, lines={LINE: [4, 0.04], other: [3, 0.03]}))) == []
    (finding,) = found(ended(repeated(times=12, lines={LINE: [8, 0.08], other: [2, 0.02]})))
    assert (finding.call_site, finding.evidence["repeats"]) == (LINE, 8)


def test_half_of_a_long_request_is_critical() -> None:
    assert found(ended(repeated(times=60), seconds=1.0))[0].severity is Severity.CRITICAL
    assert found(ended(repeated(times=60), seconds=2.0))[0].severity is Severity.WARNING
    assert found(ended(repeated(times=40), seconds=0.5))[0].severity is Severity.WARNING


def test_repeats_of_unknown_purpose_are_not_reported() -> None:
    assert found(ended(changed(repeated(), load=None))) == []


def test_the_text_can_be_disabled() -> None:
    (finding,) = found(ended(repeated()), DatabaseSettings(query_text=False))
    assert finding.evidence["db.query.text"] == ""

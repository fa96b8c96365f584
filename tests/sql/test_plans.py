"""Plans of four databases, from the answers of real servers: their text and their remark.

The answers are those of PostgreSQL 15, MariaDB 10.11 and SQLite 3.40; those of MySQL 8 are taken from its manual.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_fastperf.sql.plans.node import TableFacts
from otel_fastperf.sql.plans.plan import PLAN_DIALECTS, Plan, plan_of
from otel_fastperf.sql.plans.statement import compared, scrubbed, statement_of

MIB = 1024 * 1024
FACTS = TableFacts(
    sizes={"users": 50_000.0, "orders": 200_000.0, "statuses": 2.0},
    indexed={"users": frozenset({"id"}), "orders": frozenset({"id", "status"})},
    work_memory=4 * MIB,
)


def plan(dialect: str, rows: list[Any], sql: str, facts: TableFacts = FACTS, max_length: int = 4096) -> Plan:
    statement = statement_of(sql, dialect)
    database = PLAN_DIALECTS[dialect]
    root = database.read(rows, statement)
    assert root is not None
    return plan_of(database, root, statement, facts, max_length=max_length)


def postgresql(sql: str, document: Any, facts: TableFacts = FACTS, max_length: int = 4096) -> Plan:
    return plan("postgresql", [(document,)], sql, facts, max_length)


def mysql(sql: str, document: Any, dialect: str = "mysql") -> Plan:
    return plan(dialect, [(document if isinstance(document, str) else json.dumps(document),)], sql)


def sqlite(sql: str, *details: tuple[int, int, str], facts: TableFacts = FACTS) -> Plan:
    return plan("sqlite", [(identity, parent, 0, detail) for identity, parent, detail in details], sql, facts)


def node(kind: str, *plans: Any, **more: Any) -> dict[str, Any]:
    """A node of PostgreSQL, with the members that all nodes share."""
    keys = {name.replace("_", " "): value for name, value in more.items()}
    return {"Node Type": kind, "Parallel Aware": False, "Async Capable": False, **keys, "Plans": list(plans)}


SEQ_SCAN = [
    {
        "Plan": {
            "Node Type": "Seq Scan",
            "Parallel Aware": False,
            "Async Capable": False,
            "Relation Name": "users",
            "Schema": "public",
            "Alias": "users",
            "Startup Cost": 0.0,
            "Total Cost": 993.0,
            "Plan Rows": 1,
            "Plan Width": 26,
            "Output": ["id", "email", '"Group"', "name"],
            "Filter": "(users.email = 'a@b.c'::text)",
        }
    }
]
EMAIL = "SELECT * FROM users WHERE email = 'a@b.c'"


# PostgreSQL


def test_a_plan_is_a_text_without_values_and_a_remark_that_names_the_index() -> None:
    seen = postgresql(EMAIL, SEQ_SCAN)
    assert seen.text == "Seq Scan on users  (cost=993 rows=1 of=50,000)\n    Filter: (users.email = ?)"
    assert seen.remark == (
        "All rows of `users` (about 50,000) are read to find about 1; no index fits `email`: try CREATE INDEX"
        " ix_users_email ON users (email)."
    )
    assert (seen.top, seen.cost, seen.scans) == ("Seq Scan on users", 993.0, (("users", 50_000.0),))


@pytest.mark.parametrize("form", [json.dumps, lambda answer: json.dumps(answer).encode(), lambda answer: answer])
def test_drivers_give_the_document_parsed_or_as_text(form: Any) -> None:
    assert postgresql(EMAIL, form(SEQ_SCAN)) == postgresql(EMAIL, SEQ_SCAN)


def test_a_function_of_a_column_gets_an_index_on_the_function() -> None:
    scan = node(
        "Seq Scan",
        Relation_Name="users",
        Schema="public",
        Alias="users",
        Total_Cost=1305.5,
        Plan_Rows=107,
        Filter="((users.\"Group\" = ANY ('{1,2,3}'::integer[])) AND (lower((users.email)::text) = 'it''s'::text))",
    )
    seen = postgresql(EMAIL, [{"Plan": scan}])
    assert seen.text.endswith('Filter: ((users."Group" = ANY (?)) AND (lower(users.email) = ?))')
    assert 'CREATE INDEX ix_users_Group_lower_email ON users ("Group", lower(email))' in seen.remark


def test_a_pattern_that_starts_with_a_wildcard_gets_no_ordinary_index() -> None:
    scan = {**SEQ_SCAN[0]["Plan"], "Filter": "(users.email ~~ '%foo%'::text)"}
    seen = postgresql(EMAIL, [{"Plan": scan}])
    assert "only a trigram or full-text index helps" in seen.remark
    assert "foo" not in seen.text


def test_a_condition_that_most_rows_meet_gets_no_remark() -> None:
    scan = node(
        "Seq Scan",
        Relation_Name="orders",
        Schema="public",
        Alias="orders",
        Total_Cost=3971.0,
        Plan_Rows=198_020,
        Filter="(orders.status = 'done'::text)",
    )
    assert postgresql("SELECT * FROM orders WHERE status = 'done'", [{"Plan": scan}]).remark == ""


def test_a_small_table_gets_no_remark() -> None:
    assert postgresql(EMAIL, SEQ_SCAN, TableFacts(sizes={"users": 9_999})).remark == ""


def test_an_index_scan_gets_no_remark() -> None:
    scan = node(
        "Index Scan",
        Index_Name="users_pkey",
        Relation_Name="users",
        Schema="public",
        Alias="users",
        Total_Cost=8.31,
        Plan_Rows=1,
        Index_Cond="(users.id = 5)",
    )
    seen = postgresql("SELECT * FROM users WHERE id = 5", [{"Plan": scan}])
    assert seen.remark == ""
    assert seen.text == "Index Scan using users_pkey on users  (cost=8 rows=1)\n    Index Cond: (users.id = ?)"


def test_an_existing_index_is_not_suggested_again() -> None:
    scan = {**SEQ_SCAN[0]["Plan"], "Filter": "(users.id = 5)"}
    remark = postgresql(EMAIL, [{"Plan": scan}]).remark
    assert "there is an index on `id`" in remark
    assert "CREATE INDEX" not in remark


def test_a_scan_in_a_correlated_subquery_is_reported_with_its_loops() -> None:
    inner = node(
        "Seq Scan",
        Relation_Name="orders",
        Schema="public",
        Alias="o",
        Total_Cost=3971.0,
        Plan_Rows=4,
        Parent_Relationship="Outer",
        Filter="(o.user_id = u.id)",
    )
    count = node("Aggregate", inner, Strategy="Plain", Parent_Relationship="SubPlan", Subplan_Name="SubPlan 1")
    outer = node(
        "Index Only Scan",
        count,
        Index_Name="users_pkey",
        Relation_Name="users",
        Schema="public",
        Alias="u",
        Plan_Rows=100,
        Index_Cond="(u.id < 100)",
    )
    assert postgresql("SELECT 1 FROM users u", [{"Plan": outer}]).remark == (
        "`orders` (about 200,000 rows) is scanned completely for each of about 100 rows; no index fits `user_id`:"
        " try CREATE INDEX ix_orders_user_id ON orders (user_id)."
    )


def hash_join(rows: int) -> list[Any]:
    orders = node(
        "Seq Scan",
        Relation_Name="orders",
        Schema="public",
        Alias="o",
        Total_Cost=3471.0,
        Plan_Rows=200_000,
        Parent_Relationship="Outer",
    )
    users = node("Index Scan", Index_Name="users_pkey", Relation_Name="users", Schema="public", Alias="u", Plan_Rows=50)
    hashed = node("Hash", users, Parent_Relationship="Inner", Plan_Rows=50)
    return [{"Plan": node("Hash Join", orders, hashed, Plan_Rows=rows, Hash_Cond="(o.user_id = u.id)")}]


def test_a_scan_for_a_selective_join_needs_an_index_on_the_key() -> None:
    sql = "SELECT * FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id < 50"
    assert "CREATE INDEX ix_orders_user_id ON orders (user_id)" in postgresql(sql, hash_join(200)).remark


def test_a_scan_for_a_join_that_keeps_most_rows_gets_no_remark() -> None:
    sql = "SELECT * FROM users u JOIN orders o ON o.user_id = u.id"
    assert postgresql(sql, hash_join(180_000)).remark == ""


def sorted_orders(limited: bool) -> list[Any]:
    scan = node(
        "Seq Scan",
        Relation_Name="orders",
        Schema="public",
        Alias="orders",
        Total_Cost=3471.0,
        Plan_Rows=200_000,
        Plan_Width=27,
        Parent_Relationship="Outer",
    )
    ordered = node(
        "Sort", scan, Sort_Key=["orders.created_at DESC"], Total_Cost=26_369, Plan_Rows=200_000, Plan_Width=27
    )
    return [{"Plan": node("Limit", ordered, Total_Cost=6191, Plan_Rows=10) if limited else ordered}]


def test_a_sort_for_the_first_few_rows_needs_an_index_on_the_order() -> None:
    remark = postgresql("SELECT * FROM orders ORDER BY created_at DESC LIMIT 10", sorted_orders(limited=True)).remark
    assert remark == (
        "About 200,000 rows are sorted to return the first few; try CREATE INDEX ix_orders_created_at ON orders"
        " (created_at)."
    )


def test_a_sort_beyond_work_mem_is_reported_as_on_disk() -> None:
    remark = postgresql("SELECT * FROM orders ORDER BY created_at DESC", sorted_orders(limited=False)).remark
    assert "About 200,000 rows (10 MiB) are sorted on disk, because they exceed work_mem (4 MiB)" in remark


def test_for_a_sort_in_memory_only_the_scan_is_reported() -> None:
    facts = TableFacts(sizes=FACTS.sizes, work_memory=64 * MIB)
    remark = postgresql("SELECT * FROM orders ORDER BY created_at DESC", sorted_orders(limited=False), facts).remark
    assert "since no condition filters them" in remark


def test_a_limit_without_a_sort_gets_no_remark() -> None:
    scan = node("Seq Scan", Relation_Name="orders", Schema="public", Alias="orders", Plan_Rows=200_000)
    limit = node("Limit", scan, Total_Cost=0.17, Plan_Rows=10)
    assert postgresql("SELECT * FROM orders LIMIT 10", [{"Plan": limit}]).remark == ""


def test_a_hash_that_exceeds_memory_is_reported() -> None:
    scan = node("Seq Scan", Relation_Name="orders", Schema="public", Alias="orders", Plan_Rows=200_000, Plan_Width=6)
    groups = node("Aggregate", scan, Strategy="Hashed", Planned_Partitions=4, Plan_Rows=200_000, Plan_Width=6)
    assert "grouped in files on disk" in postgresql("SELECT DISTINCT total FROM orders", [{"Plan": groups}]).remark


def test_rows_of_parallel_workers_are_added_up() -> None:
    scan = node(
        "Seq Scan",
        Relation_Name="orders",
        Schema="public",
        Alias="orders",
        Plan_Rows=117_647,
        Parent_Relationship="Outer",
    )
    gather = node("Gather", {**scan, "Parallel Aware": True}, Plan_Rows=200_000, Workers_Planned=1)
    assert "Parallel Seq Scan on orders  (rows=200,000 of=200,000)" in postgresql("SELECT 1", [{"Plan": gather}]).text


def test_a_table_of_another_schema_is_shown_with_its_schema() -> None:
    scan = {**SEQ_SCAN[0]["Plan"], "Schema": "shop", "Relation Name": "Users", "Alias": "users"}
    remark = postgresql(EMAIL, [{"Plan": scan}], TableFacts(sizes={'shop."Users"': 50_000})).remark
    assert 'CREATE INDEX ix_Users_email ON shop."Users" (email)' in remark


def test_without_facts_the_rows_of_a_scan_are_estimated_by_its_cost() -> None:
    ((table, rows),) = postgresql(EMAIL, SEQ_SCAN, TableFacts()).scans
    assert table == "users"
    assert rows == pytest.approx(49_650)


def test_plans_of_the_same_shape_have_the_same_hash() -> None:
    other = [{"Plan": {**SEQ_SCAN[0]["Plan"], "Filter": "(users.email = 'x'::text)", "Total Cost": 5, "Plan Rows": 7}}]
    moved = [{"Plan": {**SEQ_SCAN[0]["Plan"], "Node Type": "Index Scan", "Index Name": "ix_users_email"}}]
    assert postgresql(EMAIL, SEQ_SCAN).hash == postgresql(EMAIL, other).hash != postgresql(EMAIL, moved).hash


def test_a_text_is_cut_at_a_line() -> None:
    deep = node("Seq Scan", Relation_Name="users", Schema="public", Alias="users")
    for _ in range(40):
        deep = node("Materialize", deep)
    text = postgresql(EMAIL, [{"Plan": deep}], max_length=256).text
    assert len(text) <= 256
    assert text.endswith("Materialize…")


# MySQL and MariaDB


def test_a_table_scan_of_mariadb_is_reported() -> None:
    table = {
        "table_name": "users",
        "access_type": "ALL",
        "rows": 50325,
        "filtered": 100,
        "attached_condition": "users.email = 'a@b.c'",
    }
    seen = mysql(EMAIL, {"query_block": {"select_id": 1, "nested_loop": [{"table": table}]}}, "mariadb")
    assert seen.text == "Query\n  Table scan on users  (of=50,325)\n      Filter: users.email = ?"
    assert seen.remark == (
        "All rows of `users` (about 50,325) are read; no index fits `email`: try CREATE INDEX ix_users_email"
        " ON users (email)."
    )


def test_a_quote_escaped_by_mariadb_is_read() -> None:
    document = (
        '{"query_block": {"select_id": 1, "nested_loop": [{"table": {"table_name": "users", "access_type": "ALL",'
        ' "rows": 50325, "filtered": 100, "attached_condition": "lcase(users.email) = \'it\\\'s\' and users.grp in'
        ' (1,2,3)"}}]}}'
    )
    with pytest.raises(json.JSONDecodeError):
        json.loads(document)
    seen = mysql("SELECT * FROM users WHERE lower(email) = 'it''s' AND grp IN (1, 2, 3)", document, "mariadb")
    assert "Filter: lcase(users.email) = ? and users.grp in (?)" in seen.text
    # MariaDB has no index on a function
    assert "CREATE INDEX ix_users_grp ON users (grp)" in seen.remark


def test_members_with_the_same_name_are_all_read() -> None:
    """MariaDB before 10.9 wrote the tables of a join like this."""
    document = (
        '{"query_block": {"select_id": 1,'
        ' "table": {"table_name": "u", "access_type": "range", "key": "PRIMARY", "rows": 49, "filtered": 100},'
        ' "table": {"table_name": "o", "access_type": "ALL", "rows": 100010, "filtered": 100}}}'
    )
    assert [line.split("  (")[0] for line in mysql("SELECT 1 FROM users u, orders o", document).text.splitlines()] == [
        "Query",
        "  Index range scan using PRIMARY on users u",
        "  Table scan on orders o",
    ]


def test_a_scan_in_a_buffered_join_is_reported_with_its_loops() -> None:
    document = {
        "query_block": {
            "select_id": 1,
            "nested_loop": [
                {"table": {"table_name": "u", "access_type": "range", "key": "PRIMARY", "rows": 49, "filtered": 100}},
                {
                    "block-nl-join": {
                        "table": {"table_name": "o", "access_type": "ALL", "rows": 100010, "filtered": 100},
                        "buffer_type": "flat",
                        "buffer_size": "13KiB",
                        "join_type": "BNL",
                        "attached_condition": "trigcond(o.user_id = u.`id`)",
                    }
                },
            ],
        }
    }
    sql = "SELECT * FROM users u LEFT JOIN orders o ON o.user_id = u.id WHERE u.id < 50"
    assert mysql(sql, document, "mariadb").remark == (
        "`orders` (about 100,010 rows) is scanned completely for each of about 49 rows; no index fits `user_id`:"
        " try CREATE INDEX ix_orders_user_id ON orders (user_id)."
    )


def test_a_materialized_table_is_read_once() -> None:
    orders = {
        "table_name": "orders",
        "access_type": "ALL",
        "rows": 100010,
        "filtered": 100,
        "attached_condition": "orders.`status` = 'open'",
    }
    kept = {"unique": 1, "query_block": {"select_id": 2, "nested_loop": [{"table": orders}]}}
    document = {
        "query_block": {
            "select_id": 1,
            "nested_loop": [
                {"table": {"table_name": "users", "access_type": "ALL", "possible_keys": ["PRIMARY"], "rows": 50325}},
                {"table": {"table_name": "<subquery2>", "access_type": "eq_ref", "rows": 1, "materialized": kept}},
            ],
        }
    }
    sql = "SELECT * FROM users WHERE id IN (SELECT user_id FROM orders WHERE status = 'open')"
    assert mysql(sql, document, "mariadb").remark == (
        "All rows of `orders` (about 100,010) are read; no index fits `status`: try CREATE INDEX ix_orders_status ON"
        " orders (status)."
    )


def test_a_sort_of_mariadb_for_the_first_few_rows_is_reported() -> None:
    table = {"table_name": "orders", "access_type": "ALL", "rows": 100010, "filtered": 100}
    ordered = {"read_sorted_file": {"filesort": {"sort_key": "orders.created_at desc", "table": table}}}
    document = {"query_block": {"select_id": 1, "nested_loop": [ordered]}}
    remark = mysql("SELECT * FROM orders ORDER BY created_at DESC LIMIT 10", document, "mariadb").remark
    assert "sorted to return the first few; try CREATE INDEX ix_orders_created_at ON orders (created_at)" in remark


def test_a_temporary_table_of_mysql_is_reported_before_its_filesort() -> None:
    document = {
        "query_block": {
            "select_id": 1,
            "cost_info": {"query_cost": "20255.75"},
            "ordering_operation": {
                "using_filesort": True,
                "grouping_operation": {
                    "using_temporary_table": True,
                    "using_filesort": False,
                    "table": {
                        "table_name": "orders",
                        "access_type": "ALL",
                        "rows_examined_per_scan": 200000,
                        "rows_produced_per_join": 200000,
                        "filtered": "100.00",
                        "cost_info": {"read_cost": "250.00", "eval_cost": "20005.75", "prefix_cost": "20255.75"},
                        "used_columns": ["id", "status"],
                    },
                },
            },
        }
    }
    seen = mysql("SELECT status, count(*) AS c FROM orders GROUP BY status ORDER BY c", document)
    assert seen.cost == 20255.75
    assert seen.remark.startswith("About 200,000 rows go through a temporary table")


def test_a_table_scan_of_mysql_is_reported() -> None:
    document = {
        "query_block": {
            "select_id": 1,
            "cost_info": {"query_cost": "60725.00"},
            "table": {
                "table_name": "e",
                "access_type": "ALL",
                "rows_examined_per_scan": 298980,
                "rows_produced_per_join": 47059,
                "filtered": "15.74",
                "cost_info": {"read_cost": "51313.14", "eval_cost": "9411.86", "prefix_cost": "60725.00"},
                "attached_condition": "((`employees`.`e`.`birth_date` >= '1957-05-23') and (`employees`.`e`.`grade` = 7))",  # noqa: E501
            },
        }
    }
    seen = mysql("SELECT * FROM employees AS e WHERE birth_date >= '1957-05-23' AND grade = 7", document)
    assert "Table scan on employees e" in seen.text
    assert "1957" not in seen.text
    assert "CREATE INDEX ix_employees_grade_birth_date ON employees (grade, birth_date)" in seen.remark


def test_a_hash_join_of_mysql_reads_each_table_once() -> None:
    document = {
        "query_block": {
            "nested_loop": [
                {"table": {"table_name": "u", "access_type": "ALL", "rows_examined_per_scan": 5000}},
                {
                    "table": {
                        "table_name": "o",
                        "access_type": "ALL",
                        "rows_examined_per_scan": 9000,
                        "using_join_buffer": "hash join",
                        "attached_condition": "(`shop`.`o`.`user_id` = `shop`.`u`.`id`)",
                    }
                },
            ]
        }
    }
    assert mysql("SELECT * FROM users u JOIN orders o ON o.user_id = u.id", document).remark == ""


def test_a_plan_without_tables_gets_no_remark() -> None:
    seen = mysql("SELECT 1", {"query_block": {"select_id": 1, "table": {"message": "No tables used"}}})
    assert (seen.text, seen.remark) == ("Query\n  No tables used", "")


# SQLite


def test_a_scan_of_sqlite_takes_columns_from_the_statement() -> None:
    seen = sqlite("SELECT * FROM users AS u WHERE u.email = ? AND u.age > ?", (2, 0, "SCAN u"))
    assert seen.text == "Query\n  SCAN u  (of=50,000)"
    assert seen.remark == (
        "All rows of `users` (about 50,000) are read; no index fits `email`, `age`: try CREATE INDEX"
        " ix_users_email_age ON users (email, age)."
    )


def test_a_look_up_of_sqlite_gets_no_remark() -> None:
    detail = "SEARCH users USING INTEGER PRIMARY KEY (rowid=?)"
    assert sqlite("SELECT * FROM users WHERE id = ?", (2, 0, detail)).remark == ""


def test_a_table_of_unknown_size_gets_no_remark() -> None:
    assert sqlite(EMAIL, (2, 0, "SCAN users"), facts=TableFacts()).remark == ""


def test_a_temporary_b_tree_for_the_first_few_rows_is_reported() -> None:
    lines = (4, 0, "SCAN orders"), (21, 0, "USE TEMP B-TREE FOR ORDER BY")
    assert (
        "CREATE INDEX ix_orders_total ON orders (total)"
        in sqlite("SELECT * FROM orders ORDER BY orders.total DESC LIMIT ? OFFSET ?", *lines).remark
    )


def test_a_temporary_b_tree_for_groups_is_reported() -> None:
    lines = (7, 0, "SCAN orders"), (9, 0, "USE TEMP B-TREE FOR GROUP BY")
    remark = sqlite("SELECT total, count(*) FROM orders GROUP BY total", *lines).remark
    assert remark.startswith("About 200,000 rows go through a temporary table")


def test_a_scan_in_a_correlated_subquery_of_sqlite_is_reported_per_row() -> None:
    remark = sqlite(
        "SELECT u.id, (SELECT count(*) FROM orders o WHERE o.user_id = u.id) FROM users u",
        (2, 0, "SCAN u"),
        (9, 0, "CORRELATED SCALAR SUBQUERY 1"),
        (14, 9, "SCAN o"),
    ).remark
    assert remark.startswith("`orders` (about 200,000 rows) is scanned completely for each of about 50,000 rows")
    assert "CREATE INDEX ix_orders_user_id ON orders (user_id)" in remark


def test_a_cross_join_gets_no_remark() -> None:
    lines = (3, 0, "SCAN o"), (5, 0, "SEARCH u USING INTEGER PRIMARY KEY (rowid=?)")
    sql = "SELECT * FROM orders o JOIN users u ON u.id = o.user_id"
    assert sqlite(sql, *lines).remark == ""
    assert "orders (user_id)" in sqlite(f"{sql} WHERE u.id < ?", *lines).remark


def test_the_remark_on_an_or_names_the_column_without_an_index() -> None:
    remark = sqlite("SELECT * FROM orders WHERE status = ? OR user_id = ?", (2, 0, "SCAN orders")).remark
    assert "no index fits `user_id`: try CREATE INDEX ix_orders_user_id ON orders (user_id)" in remark


@pytest.mark.parametrize(
    "detail",
    ["SCAN json_each VIRTUAL TABLE INDEX 1:", "SCAN CONSTANT ROW", "SCAN (subquery-1)", "SCAN 3 CONSTANT ROWS"],
)
def test_scans_of_anything_but_tables_are_ignored(detail: str) -> None:
    assert sqlite("SELECT 1", (2, 0, detail)).scans == ()


# conditions


@pytest.mark.parametrize(
    ("condition", "shown"),
    [
        ("(email = 'a@b.c'::text)", "(email = ?)"),
        ("((email)::text = 'it''s'::character varying)", "(email = ?)"),
        ("(created_at > '2026-01-01 00:00:00'::timestamp without time zone)", "(created_at > ?)"),
        ("(total >= 12.50::numeric(10,2))", "(total >= ?)"),
        ("(tags && '{a,b}'::text[])", "(tags && ?)"),
        ("(id = ANY ('{1,2,3}'::integer[]))", "(id = ANY (?))"),
        ("(secret ~~ '%4111-1111%'::text)", "(secret ~~ ?)"),
        ("((lower((email)::text) = 'x'::text) AND (NOT active))", "((lower(email) = ?) AND (NOT active))"),
    ],
)
def test_conditions_are_shown_without_values_and_casts(condition: str, shown: str) -> None:
    assert scrubbed(condition, "postgresql") == shown


@pytest.mark.parametrize(
    ("condition", "keys"),
    [
        ("(u.a = ?)", ("a",)),
        ("((u.b > ?) AND (u.a = ?))", ("a", "b")),
        ("((u.b > ?) AND (u.c < ?) AND (u.a = ?))", ("a", "b")),
        ("(o.user_id = u.id)", ("id",)),
        ("(u.a <> ?)", ()),
        ("(o.a = ?)", ()),
        ("(u.a IS NULL)", ("a",)),
        ("(u.a = ANY (?))", ("a",)),
        ("((u.a = ?) AND (u.b = ?) AND (u.c = ?) AND (u.d = ?))", ("a", "b", "c")),
    ],
)
def test_an_index_starts_with_the_columns_compared_for_equality(condition: str, keys: tuple[str, ...]) -> None:
    assert compared(condition, "u").keys == keys


# unexpected answers

_TEXT = st.text(max_size=30)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                (
                    "Plan",
                    "Plans",
                    "Node Type",
                    "Relation Name",
                    "Schema",
                    "Alias",
                    "Filter",
                    "Sort Key",
                    "Plan Rows",
                    "Total Cost",
                    "Workers Planned",
                    "Parent Relationship",
                    "query_block",
                    "nested_loop",
                    "table",
                    "table_name",
                    "rows",
                    "filtered",
                    "access_type",
                    "attached_condition",
                    "block-nl-join",
                    "filesort",
                    "sort_key",
                    "subqueries",
                    "materialized",
                    "dependent",
                    "cost_info",
                )
            )
            | _TEXT,
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)
_ANSWERS = st.one_of(
    st.builds(lambda document: [(document,)], _JSON),
    st.builds(lambda document: [(json.dumps(document),)], _JSON),
    st.builds(lambda plan: [([{"Plan": plan}],)], _JSON),
    st.builds(lambda block: [(json.dumps({"query_block": block}),)], _JSON),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(), _TEXT), max_size=8),
    st.lists(st.lists(_JSON, max_size=4), max_size=4),
)


@given(st.sampled_from(sorted(PLAN_DIALECTS)), _ANSWERS, _TEXT, st.integers(64, 1000))
def test_any_answer_is_read_without_error_and_texts_have_the_maximum_length(
    dialect: str, rows: list[Any], sql: str, length: int
) -> None:
    database = PLAN_DIALECTS[dialect]
    statement = statement_of(sql, dialect)
    root = database.read(rows, statement)
    if root is not None:
        for question in database.questions(root):
            assert isinstance(question, str)
        seen = plan_of(database, root, statement, database.facts(rows), max_length=length)
        assert len(seen.text) <= length
        seen.text.encode()
        seen.remark.encode()


@given(st.text(min_size=4).filter(lambda text: text.isalnum()))
def test_no_value_of_a_condition_is_shown(value: str) -> None:
    secret = f"zz{value}zz"
    scan = {**SEQ_SCAN[0]["Plan"], "Filter": f"(users.email = '{secret}'::text)", "Output": [secret]}
    seen = postgresql(EMAIL, [{"Plan": scan}])
    assert secret not in f"{seen.text}{seen.remark}{seen.top}"


def test_a_very_deep_plan_is_cut() -> None:
    deep: dict[str, Any] = node("Seq Scan")
    for _ in range(5000):
        deep = node("Materialize", deep)
    assert postgresql("SELECT 1", [{"Plan": deep}]).text.startswith("Materialize")
    assert PLAN_DIALECTS["mysql"].read([("[" * 100_000,)], statement_of("SELECT 1", "mysql")) is None

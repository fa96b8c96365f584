"""The queries of docs/queries.md: SQL is run by ClickHouse's engine on spans of the demo; names in all of them exist.

tests/deploy/test_main_job.py runs the PromQL.
"""

import json
import os
import subprocess
import sys
from typing import Any, Final

import pytest

from tests.deploy.live_spans import exported_by_the_demo
from tests.deploy.promql import KNOWN, missing
from tests.deploy.queries import QUERIES, TABLE, of, rows
from tests.deploy.servers import needs
from tests.deploy.traceql import attributes_of_query
from tests.otlp import ReceivedSpan
from tools.servers import SERVERS

SQL: Final = of("sql")
TRACEQL: Final = of("traceql")
_RUN: Final = """
import json, sys
from chdb import session
asked = json.load(sys.stdin)
database = session.Session()
database.query("CREATE DATABASE telemetry")
database.query("USE telemetry")
database.query(asked["table"])
database.query(f"INSERT INTO otel_traces SELECT * FROM file('{asked['rows']}', JSONEachRow)")
answers = {}
for question, text in asked["queries"].items():
    try:
        answers[question] = [json.loads(line) for line in str(database.query(text, "JSONEachRow")).splitlines() if line]
    except Exception as error:
        answers[question] = str(error)
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> list[ReceivedSpan]:
    return exported_by_the_demo(tmp_path_factory.mktemp("spans"))


@pytest.fixture(scope="module")
def answers(spans: list[ReceivedSpan], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("clickhouse")
    table = folder / "spans.jsonl"
    table.write_text(rows(spans))
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        input=json.dumps({"table": TABLE, "rows": str(table), "queries": SQL}),
        env={**os.environ, "PYTHONPATH": str(SERVERS["clickhouse"].directory), "TZ": "UTC"},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_each_question_is_asked_once_in_a_language_that_is_tested() -> None:
    assert len({(one.language, one.question, one.text) for one in QUERIES}) == len(QUERIES) > 45
    assert {one.language for one in QUERIES} == {"promql", "traceql", "sql"}


@pytest.mark.parametrize("question", of("promql"))
def test_promql_uses_metrics_and_labels_that_exist(question: str) -> None:
    assert missing(of("promql")[question], KNOWN) == set()


@needs("clickhouse")
@pytest.mark.parametrize("question", SQL)
def test_sql_returns_rows_about_the_spans_of_the_demo(question: str, answers: dict[str, Any]) -> None:
    found = answers[question]
    assert isinstance(found, list), found
    assert any("" not in row.values() for row in found), found


@needs("clickhouse")
def test_sql_says_what_is_wrong_with_the_demo(answers: dict[str, Any]) -> None:
    [repeated] = [
        row
        for row in answers["Which lines cause N+1, and what is the remedy?"]
        if row["SpanName"].endswith("/slow/n-plus-one")
    ]
    assert repeated["file"].endswith("n_plus_one.py")
    assert repeated["repeats"] > 10
    assert "selectinload" in repeated["remedy"]
    blocked = answers["Which lines block the event loop, and how many requests waited?"]
    assert any(row["file"].endswith("blocking_call.py") and row["seconds"] > 0.1 for row in blocked)


@pytest.mark.parametrize("question", TRACEQL)
def test_traceql_is_valid_and_names_attributes_that_spans_have(question: str, spans: list[ReceivedSpan]) -> None:
    there = {f"span.{name}" for span in spans for name in span.attributes}
    there |= {f"event.{name}" for span in spans for event in span.events for name in event.attributes}
    there |= {f"resource.{name}" for span in spans for name in span.resource}
    assert attributes_of_query(TRACEQL[question]) <= there


@pytest.mark.parametrize(
    "text",
    [
        "{ span.a = 1",
        "{ span.a = }",
        "{ span.a 1 }",
        "{ kind = servant }",
        "{ nothing = 1 }",
        "{} | top(3)",
        "{} | quantile_over_time(duration)",
        "{} | select(span.a) by",
        "{} { }",
        "{ span.a = 1; }",
    ],
)
def test_the_check_of_traceql_refuses_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        attributes_of_query(text)

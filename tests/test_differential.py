"""Our SERVER and CLIENT spans carry what contrib's do with stable conventions switched on. Differences are argued here.

docs/differences.md says the same in prose.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.serving import ROOT


def observed_by(observer: str) -> list[dict[str, Any]]:
    """The corpus, asked of the service under `contrib` or `ours`, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.differential", observer],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def pairs() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(contrib's answer, ours) for each request of the corpus."""
    contrib, ours = observed_by("contrib"), observed_by("ours")
    return list(zip(contrib, ours, strict=True))


def one(answer: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [span for span in answer["spans"] if span["kind"] == kind]


def test_the_service_answers_the_same(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    assert [contrib["status"] for contrib, _ in pairs] == [ours["status"] for _, ours in pairs]


def test_server_spans_carry_contrib_s_attributes(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for contrib, ours in pairs:
        theirs = next(span for span in one(contrib, "SERVER") if "client.address" in span["attributes"])
        (own,) = one(ours, "SERVER")
        del theirs["attributes"]["client.port"]  # each asks on connections of its own
        for key, value in theirs["attributes"].items():
            assert own["attributes"].get(key) == expected(ours["request"], key, value, ours["port"]), (
                ours["request"],
                key,
            )
        assert own["status"] == theirs["status"], ours["request"]
        assert own["events"] == theirs["events"], ours["request"]
        assert own["parent"] == theirs["parent"], ours["request"]


#: (request, attribute) -> what we say where contrib says something else, and why; `*` is any request
ARGUED: dict[tuple[str, str], Any] = {
    # the route was not run: its rate, errors and latency must not count its callers' mistakes
    ("HEAD /ping", "http.route"): None,
    ("DELETE /ping", "http.route"): None,
    ("BREW /ping", "http.route"): None,
    # contrib names the mount; the template is the whole of it
    ("GET /mounted/ping", "http.route"): "/mounted/ping",
    # contrib leaves the port in the address, and takes the socket's port where Host names another
    ("*", "server.address"): "127.0.0.1",
    ("GET /ping at shop.example:8443", "server.address"): "shop.example",
    ("GET /ping at shop.example:8443", "server.port"): 8443,
    # values are the users' data, keys are the app's
    ("*", "url.query"): "word=REDACTED&token=REDACTED",
    # the exception's type says more than the status, which has its own attribute
    ("GET /boom", "error.type"): "ValueError",
    ("GET /broken-query", "error.type"): "sqlalchemy.exc.OperationalError",
}


#: contrib < 0.61 has no stable names for SQLAlchemy
STABLE_NAMES = {"db.statement": "db.query.text", "db.system": "db.system.name", "db.name": "db.namespace"}


def expected(request: str, key: str, contribs: Any, port: int) -> Any:
    """Contrib's value, but for what is argued."""
    default = port if key == "server.port" else contribs
    return ARGUED.get((request, key), ARGUED.get(("*", key), default))


def test_statements_have_contrib_s_attributes_and_better_names(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    statements = 0
    for contrib, ours in pairs:
        # contrib's `connect` span is the pool's checkout: pool metrics tell it, for a tenth of a span's cost
        theirs = [span for span in one(contrib, "CLIENT") if span["name"] != "connect"]
        own = one(ours, "CLIENT")
        assert len(own) == len(theirs)
        for their, mine in zip(theirs, own, strict=True):
            statements += 1
            batch = "db.operation.batch.size" in mine["attributes"]
            for old, value in their["attributes"].items():
                key = STABLE_NAMES.get(old, old)
                # semconv: the operation of a batch is its statement's with BATCH before it
                assert mine["attributes"].get(key) == (
                    f"BATCH {value}" if batch and key == "db.operation.name" else value
                ), key
            assert mine["status"] == their["status"]
            assert mine["attributes"]["db.query.summary"] == mine["name"]
    assert statements == 3


def test_contrib_doubles_the_span_of_a_mounted_app_and_we_do_not(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    _, ours = pairs[-1]
    assert [span["name"] for span in ours["spans"]] == ["GET /mounted/ping"]

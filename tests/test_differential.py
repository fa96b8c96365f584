"""Our SERVER and CLIENT spans have the attributes of contrib's under the stable conventions, except those listed here.

docs/differences.md explains the exceptions to users.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.serving import ROOT


def observed_by(observer: str) -> list[dict[str, Any]]:
    """Send the corpus to the service under `contrib` or `ours`, in a separate process."""
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


def test_answers_are_the_same_under_both(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    assert [contrib["status"] for contrib, _ in pairs] == [ours["status"] for _, ours in pairs]


def test_server_spans_carry_contrib_s_attributes(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for contrib, ours in pairs:
        theirs = next(span for span in one(contrib, "SERVER") if "client.address" in span["attributes"])
        (own,) = one(ours, "SERVER")
        del theirs["attributes"]["client.port"]  # each run has its own connections
        for key, value in theirs["attributes"].items():
            assert own["attributes"].get(key) == expected(ours["request"], key, value, ours["port"]), (
                ours["request"],
                key,
            )
        assert own["status"] == theirs["status"], ours["request"]
        assert own["events"] == theirs["events"], ours["request"]
        assert own["parent"] == theirs["parent"], ours["request"]


#: (request, attribute) -> our value where it differs from contrib's, and why; `*` is any request
ARGUED: dict[tuple[str, str], Any] = {
    # the route did not run: its rate, errors and latency must not include mistakes of its callers
    ("HEAD /ping", "http.route"): None,
    ("DELETE /ping", "http.route"): None,
    ("BREW /ping", "http.route"): None,
    # contrib gives the mount only; the template contains the whole path
    ("GET /mounted/ping", "http.route"): "/mounted/ping",
    # contrib leaves the port in the address, and uses the socket's port even if Host has another
    ("*", "server.address"): "127.0.0.1",
    ("GET /ping at shop.example:8443", "server.address"): "shop.example",
    ("GET /ping at shop.example:8443", "server.port"): 8443,
    # values are data of users, keys belong to the app
    ("*", "url.query"): "word=REDACTED&token=REDACTED",
    # the exception type is more specific than the status, which has its own attribute
    ("GET /boom", "error.type"): "ValueError",
    ("GET /broken-query", "error.type"): "sqlalchemy.exc.OperationalError",
}


#: contrib < 0.61 has no stable names for SQLAlchemy
STABLE_NAMES = {"db.statement": "db.query.text", "db.system": "db.system.name", "db.name": "db.namespace"}


def expected(request: str, key: str, contribs: Any, port: int) -> Any:
    """Contrib's value, or ours if it differs on purpose."""
    default = port if key == "server.port" else contribs
    return ARGUED.get((request, key), ARGUED.get(("*", key), default))


def test_statements_have_contrib_s_attributes_and_better_names(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    statements = 0
    for contrib, ours in pairs:
        # contrib's `connect` span is the checkout from the pool, which pool metrics show at a tenth of the cost
        theirs = [span for span in one(contrib, "CLIENT") if span["name"] != "connect"]
        # contrib has no spans for the ends of transactions
        own = [span for span in one(ours, "CLIENT") if span["name"] not in {"COMMIT", "ROLLBACK"}]
        assert len(own) == len(theirs)
        for their, mine in zip(theirs, own, strict=True):
            statements += 1
            batch = "db.operation.batch.size" in mine["attributes"]
            for old, value in their["attributes"].items():
                key = STABLE_NAMES.get(old, old)
                # semconv: the operation of a batch is BATCH followed by the operation of its statement
                assert mine["attributes"].get(key) == (
                    f"BATCH {value}" if batch and key == "db.operation.name" else value
                ), key
            assert mine["status"] == their["status"]
            assert mine["attributes"]["db.query.summary"] == mine["name"]
    assert statements == 3


def test_a_mounted_app_has_two_server_spans_under_contrib_and_one_under_ours(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    _, ours = pairs[-1]
    assert [span["name"] for span in ours["spans"]] == ["GET /mounted/ping"]

"""The pytest plugin, in test suites of a small shop: which tests it fails, its output, and no effect if unused."""

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from textwrap import dedent
from typing import Final

import pytest

pytest_plugins = ["pytester"]

ROOT: Final = Path(__file__).parents[2]

SHOP: Final = '''
"""A shop with ten orders; /orders asks for the lines of each."""

from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import ForeignKey, StaticPool, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload, sessionmaker

app = FastAPI()
engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
sessions = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    items: Mapped[list["Item"]] = relationship()


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))


Base.metadata.create_all(engine)
with sessions.begin() as session:
    session.add_all(Order(items=[Item()]) for _ in range(10))


def get_session():
    with sessions() as session:
        yield session


Db = Annotated[Session, Depends(get_session)]


@app.get("/orders")
def orders(session: Db) -> list[int]:
    return [len(order.items) for order in session.scalars(select(Order))]


@app.get("/orders/at-once")
def orders_at_once(session: Db) -> list[int]:
    return [len(order.items) for order in session.scalars(select(Order).options(selectinload(Order.items)))]


@app.get("/orders/{order_id}")
def order(order_id: int, session: Db) -> int:
    return len(session.get_one(Order, order_id).items)


@app.get("/sync")
async def on_the_loop(session: Db) -> list[int]:
    return list(session.scalars(select(Order.id)))


@app.get("/health")
async def health() -> str:
    return "ok"
'''

#: an app that sets up telemetry itself, with a custom detector: a finding for each request with a `?bad=...`
WITH_DETECTOR: Final = '''
from otel_fastperf import CallSite, Finding, Severity, setup_telemetry


def bad(record):
    """A finding."""
    subject = record.scope["query_string"].decode().removeprefix("bad=")
    if subject:
        yield Finding(kind="too_bad", severity=Severity.WARNING, subject=subject, message="It is bad.",
                      remedy="be good", call_site=CallSite(__file__, 7, "bad"), seconds=0.5)


telemetry = setup_telemetry(app)
telemetry.add_detector(bad)
'''

CONFTEST: Final = """
import pytest
from fastapi.testclient import TestClient

@pytest.fixture
def client():
    from shop import app
    return TestClient(app)
"""

INI: Final = """
[pytest]
fastperf_app = shop:app
"""

#: pytest plugins that ours does not need, and that take most of the time of a run
WITHOUT: Final = tuple(f"-pno:{name}" for name in ("hypothesispytest", "rerunfailures", "cacheprovider"))

needs_n_plus_one = pytest.mark.skipif(
    find_spec("otel_fastperf.detectors.n_plus_one") is None, reason="detector not merged: n_plus_one"
)
needs_sync_db = pytest.mark.skipif(
    find_spec("otel_fastperf.detectors.sync_db_on_loop") is None, reason="detector not merged: sync_db_on_loop"
)
needs_watchdog = pytest.mark.skipif(
    find_spec("otel_fastperf.monitors.watchdog") is None, reason="monitor not merged: watchdog"
)


@pytest.fixture
def installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point, like pip installs it; pytest ignores it if the installed package has one already."""
    metadata = pytester.path / "installed" / "fastperf_entry-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fastperf-entry\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[pytest11]\nfastperf = otel_fastperf.pytest_plugin\n")
    pytester.syspathinsert(metadata.parent)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join((str(metadata.parent), str(ROOT), os.environ.get("PYTHONPATH", "")))
    )


Suite = Callable[..., pytest.RunResult]


@pytest.fixture
def suite(pytester: pytest.Pytester, installed: None, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Run tests of the shop in a new process: `suite(code, "--option", shop=…, ini=…)`."""
    # with either of the first two, pytest repeats whole messages in its summary
    for name in ("CI", "BUILD_NUMBER", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)

    def run(tests: str, *options: str, shop: str = SHOP, ini: str = INI, conftest: str = CONFTEST) -> pytest.RunResult:
        pytester.makepyfile(shop=shop)
        pytester.makeconftest(dedent(conftest))
        pytester.makeini(ini)
        pytester.makepyfile(test_shop=dedent(tests))
        # a file rewritten within the same second may be mistaken for the compiled one
        rmtree(pytester.path / "__pycache__", ignore_errors=True)
        return pytester.runpytest_subprocess(*WITHOUT, *options)

    return run


class TestMarker:
    def test_a_request_with_too_many_statements_fails_and_lists_them(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest

            @pytest.mark.fastperf(max_queries=5, forbid=())
            def test_orders(client):
                assert client.get("/orders").status_code == 200

            @pytest.mark.fastperf(max_queries=5, forbid=())
            def test_orders_at_once(client):
                assert client.get("/orders/at-once").status_code == 200
            """
        )
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(
            ["*FAILURES*", "*test_orders*", "fastperf: over the budget.", "GET /orders: 11 SQL statements, at most 5"]
        )
        assert "pytest_plugin" not in result.stdout.str().split("FAILURES")[1].split("short test summary")[0]

    @needs_n_plus_one
    def test_a_bare_marker_forbids_n_plus_one_and_shows_line_and_remedy(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest
            pytestmark = pytest.mark.fastperf

            def test_orders(client):
                client.get("/orders")

            def test_orders_at_once(client):
                client.get("/orders/at-once")

            @pytest.mark.fastperf(allow=("n_plus_one",))
            def test_orders_allowed(client):
                client.get("/orders")
            """
        )
        result.assert_outcomes(passed=2, failed=1)
        line = next(number for number, line in enumerate(SHOP.splitlines(), 1) if "select(Order))]" in line)
        result.stdout.fnmatch_lines(
            [
                "n_plus_one in GET /orders",
                "*10*",
                f"*At shop.py:{line - 1} in orders",
                "*Remedy:*selectinload(Order.items)*",
            ]
        )

    @needs_n_plus_one
    def test_a_request_over_the_budget_shows_counts_of_statements_and_the_line_of_repeats(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest

            @pytest.mark.fastperf(max_queries=5, forbid=())
            def test_orders(client):
                client.get("/orders")
            """
        )
        result.stdout.fnmatch_lines(["* 10 x SELECT items  at shop.py:* in orders", "* 1 x SELECT orders*"])

    @needs_sync_db
    def test_a_synchronous_statement_on_the_loop_fails(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest

            @pytest.mark.fastperf
            def test_sync(client):
                client.get("/sync")
            """
        )
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["sync_db_on_loop in GET /sync"])

    def test_a_slow_request_fails(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest

            @pytest.mark.fastperf(max_seconds=0.000001)
            def test_health(client):
                client.get("/health")
                client.get("/health")
            """
        )
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["GET /health: 0.0* s, at most 1e-06 s (the worst of 2 requests)"])

    def test_the_closest_marker_wins_and_outer_ones_add_the_rest(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest
            pytestmark = pytest.mark.fastperf(max_queries=1, forbid=("too_bad",))

            @pytest.mark.fastperf(max_queries=20)
            def test_closest(client):
                client.get("/orders")

            @pytest.mark.fastperf(max_queries=20)
            def test_left_open(client):
                client.get("/orders?bad=luck")

            def test_outer(client):
                client.get("/orders")
            """,
            shop=SHOP + WITH_DETECTOR,
        )
        result.assert_outcomes(passed=1, failed=2)
        result.stdout.fnmatch_lines(
            ["too_bad in GET /orders", "*It is bad.", "*At shop.py:7 in bad", "*Remedy: be good"]
        )

    def test_requests_of_fixtures_before_the_test_do_not_count(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest

            @pytest.fixture
            def logged_in(client):
                client.get("/orders")
                return client

            @pytest.mark.fastperf(max_queries=2)
            def test_orders(logged_in):
                logged_in.get("/orders/at-once")
            """
        )
        result.assert_outcomes(passed=1)

    def test_a_failure_of_the_test_itself_is_shown_unchanged(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest

            @pytest.mark.fastperf(max_queries=1)
            def test_orders(client):
                assert client.get("/orders").status_code == 404

            @pytest.mark.xfail(strict=True)
            @pytest.mark.fastperf(max_queries=1)
            def test_known_to_fail(client):
                client.get("/orders")
            """
        )
        result.assert_outcomes(failed=1, xfailed=1)
        result.stdout.fnmatch_lines(["*assert 200 == 404*"])
        result.stdout.no_fnmatch_line("*over the budget*")

    def test_a_marker_without_requests_fails_the_test(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest
            pytestmark = pytest.mark.fastperf(max_queries=1)

            def test_no_request():
                pass
            """
        )
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["fastperf saw no request to judge; finished requests: none.*"])

    def test_a_marker_without_an_app_fails_with_a_remedy(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest

            @pytest.mark.fastperf
            def test_no_app(client):
                client.get("/orders")
            """,
            ini="[pytest]",
        )
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["fastperf watches no app. Remedy:*fastperf_app*"])

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ("queries=5", "does not take queries. Remedy: use max_queries, max_seconds, forbid, allow"),
            ("5", "does not take 5. Remedy: use max_queries, max_seconds, forbid, allow"),
            ("forbid=('n_plus_1',)", "'n_plus_1' is not a kind of finding. Remedy: use n_plus_one."),
            ("allow='N+1'", "'N+1' is not a kind of finding. Remedy: use one of blocking_call, "),
        ],
    )
    def test_a_wrong_marker_is_reported_before_any_test_runs(self, suite: Suite, arguments: str, said: str) -> None:
        result = suite(f"import pytest\n@pytest.mark.fastperf({arguments})\ndef test_it(): pass")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert said in result.stderr.str()
        assert "test_it" in result.stderr.str()


class TestFixture:
    def test_requests_are_available_in_the_test(self, suite: Suite) -> None:
        result = suite(
            """
            import dataclasses
            import pytest

            def test_requests(client, fastperf):
                client.get("/orders/3?x=1")
                client.get("/orders/99999")
                client.post("/nowhere")
                first, second, third = fastperf.requests
                assert (first.method, first.route, first.path, first.status) == (
                    "GET", "/orders/{order_id}", "/orders/3", 200)
                assert (first.queries, first.findings) == (2, ())
                assert 0 < first.seconds < 60
                assert (second.status, third.status) == (500, 404)
                assert (third.method, third.route, str(third)) == ("POST", "unmatched", "POST /nowhere")
                assert fastperf.findings == ()
                with pytest.raises(dataclasses.FrozenInstanceError):
                    first.queries = 0
            """,
            conftest=CONFTEST.replace("TestClient(app)", "TestClient(app, raise_server_exceptions=False)"),
        )
        result.assert_outcomes(passed=1)

    def test_findings_of_each_request_are_available_in_the_test(self, suite: Suite) -> None:
        result = suite(
            """
            def test_findings(client, fastperf):
                client.get("/health")
                client.get("/health?bad=luck")
                client.get("/health?bad=luck")
                assert [[f.subject for f in request.findings] for request in fastperf.requests] == [
                    [], ["luck"], ["luck"]]
                assert [(f.kind, f.route, f.count) for f in fastperf.findings] == 2 * [("too_bad", "/health", 1)]

            def test_anew(client, fastperf):
                assert (fastperf.requests, fastperf.findings) == ((), ())
            """,
            shop=SHOP + WITH_DETECTOR,
        )
        result.assert_outcomes(passed=2)

    def test_assertions_fail_at_the_line_in_the_test(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest

            def test_queries(client, fastperf):
                client.get("/orders")
                client.get("/orders/at-once")
                fastperf.assert_queries(at_most=2, route="/orders/at-once")
                fastperf.assert_queries(at_most=11)
                with pytest.raises(AssertionError, match="GET /orders: 11 SQL statements, at most 10"):
                    fastperf.assert_queries(at_most=10)
                with pytest.raises(AssertionError, match="finished requests: GET /orders, GET /orders/at-once"):
                    fastperf.assert_queries(at_most=10, route="/order")

            def test_kinds(client, fastperf):
                client.get("/health?bad=luck")
                client.get("/orders")
                fastperf.assert_no("slow_query", "pool_wait")
                fastperf.assert_no("too_bad", route="/orders")
                with pytest.raises(AssertionError, match="too_bad in GET /health"):
                    fastperf.assert_no("too_bad")

            def test_block(client, fastperf):
                client.get("/orders?bad=luck")
                with fastperf.budget(max_queries=2, max_seconds=60, forbid=("too_bad",)):
                    client.get("/orders/at-once")
                with pytest.raises(AssertionError, match="no request"), fastperf.budget(max_queries=2):
                    pass
                with pytest.raises(ZeroDivisionError), fastperf.budget(max_queries=2):
                    client.get("/orders")
                    1 / 0
                with fastperf.budget(max_queries=2):
                    client.get("/orders")
            """,
            shop=SHOP + WITH_DETECTOR,
        )
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines([">*with fastperf.budget(max_queries=2):", "E*GET /orders: 11 SQL statements*"])
        result.stdout.no_fnmatch_line("*watching.py*")

    def test_watch_observes_an_app_and_undoes_everything_afterwards(self, suite: Suite) -> None:
        result = suite(
            """
            from shop import app, engine
            from sqlalchemy import event, Engine

            def test_watch(client, fastperf):
                handle = fastperf.watch(app)
                assert fastperf.watch(app) is handle
                client.get("/orders")
                fastperf.assert_queries(at_most=11)
                assert client.get("/metrics").status_code == client.get("/debug/fastperf").status_code == 404
                assert len(handle.spans()) == 0 or handle.spans()

            def test_afterwards(client):
                assert vars(app.state)["_state"] == {}
                assert not any("otel_fastperf" in type(layer).__module__ for layer in chain(app.middleware_stack))

            def chain(layer):
                while layer is not None:
                    yield layer
                    layer = getattr(layer, "app", None)
            """,
            ini="[pytest]",
        )
        result.assert_outcomes(passed=2)

    def test_an_app_with_telemetry_keeps_it(self, suite: Suite) -> None:
        result = suite(
            """
            from shop import app, telemetry

            def test_watch(client, fastperf):
                assert fastperf.watch(app) is telemetry
                client.get("/health")
                fastperf.assert_queries(at_most=0)

            def test_afterwards(client):
                client.get("/health")
                assert "requests: on" in telemetry.describe()
                assert app.state.otel_fastperf_telemetry is telemetry
            """,
            shop=SHOP + WITH_DETECTOR,
        )
        result.assert_outcomes(passed=2)

    def test_an_app_with_telemetry_gets_test_thresholds_if_the_option_names_it(self, suite: Suite) -> None:
        tests = """
            from shop import telemetry

            def test_thresholds():
                print("thresholds", telemetry.settings.database.n_plus_one, telemetry.settings.loop.blocked)
            """
        result = suite(tests, "-s", shop=SHOP + WITH_DETECTOR)
        result.stdout.fnmatch_lines(["*thresholds 3 0.1*"])
        result = suite(tests, "-s", shop=SHOP + WITH_DETECTOR, ini="[pytest]")
        result.stdout.fnmatch_lines(["*thresholds 6 0.1*"])

    def test_a_fixture_of_the_project_can_create_the_app(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest

            @pytest.mark.fastperf(max_queries=1)
            def test_own(client):
                client.get("/orders/at-once")
            """,
            conftest="""
                import pytest
                from fastapi.testclient import TestClient

                @pytest.fixture
                def app():
                    import shop
                    return shop.app

                @pytest.fixture
                def client(app):
                    return TestClient(app)

                @pytest.fixture
                def fastperf_app(app):
                    return app
                """,
            ini="[pytest]",
        )
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["GET /orders/at-once: 2 SQL statements, at most 1"])

    @pytest.mark.parametrize(
        ("app", "said"),
        [
            ("shop", "write MODULE:APP"),
            ("shops:app", "No module named"),
            ("shop:get_session", "a function that makes the app, override the fixture fastperf_app with one"),
        ],
    )
    def test_a_wrong_app_option_is_an_error(self, suite: Suite, app: str, said: str) -> None:
        result = suite("def test_it(fastperf): pass", ini=f"[pytest]\nfastperf_app = {app}")
        result.assert_outcomes(errors=1)
        assert said in result.stdout.str()

    def test_requests_that_telemetry_cannot_see_fail_the_test(
        self, suite: Suite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_FASTPERF_FINDINGS_DISABLED", "n_plus_one")
        monkeypatch.setenv("OTEL_FASTPERF_DATABASE_ENABLED", "false")
        result = suite(
            """
            import pytest

            @pytest.mark.fastperf(max_queries=1)
            def test_orders(client):
                client.get("/health")
            """
        )
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["fastperf cannot see SQL statements (OTEL_FASTPERF_DATABASE_ENABLED is false); n_plus_one (it is in *"]
        )


ASYNC_SHOP: Final = """
import asyncio
import time

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

app = FastAPI()
engine = create_async_engine("sqlite+aiosqlite://")


@app.get("/three")
async def three() -> list[int]:
    async with engine.connect() as connection:
        return [await connection.scalar(text("SELECT 1")) for _ in range(3)]


@app.get("/blocking")
async def blocking() -> None:
    time.sleep(0.3)


@app.get("/awaiting")
async def awaiting() -> None:
    await asyncio.sleep(0.3)
"""

ASYNC_CLIENT: Final = """
    import httpx
    import pytest
    from shop import app

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    def client():
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop")
    """


class TestClients:
    def test_an_async_test_with_an_asgi_transport_is_observed(self, suite: Suite) -> None:
        result = suite(
            dedent(ASYNC_CLIENT)
            + dedent("""
            @pytest.mark.anyio
            @pytest.mark.fastperf(max_queries=3, forbid="blocking_call")
            async def test_within():
                async with client() as shop:
                    assert (await shop.get("/three")).json() == [1, 1, 1]

            @pytest.mark.anyio
            @pytest.mark.fastperf(max_queries=2, forbid=())
            async def test_over():
                async with client() as shop:
                    await shop.get("/three")

            @pytest.mark.anyio
            async def test_fixture(fastperf):
                async with client() as shop:
                    with fastperf.budget(max_queries=3):
                        await shop.get("/three")
            """),
            shop=ASYNC_SHOP,
            conftest="",
        )
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(["GET /three: 3 SQL statements, at most 2"])

    def test_a_client_that_runs_the_lifespan_is_observed(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest
            from fastapi.testclient import TestClient
            from shop import app

            @pytest.mark.fastperf(max_queries=1, forbid=())
            @pytest.mark.parametrize("turn", [1, 2])
            def test_over(turn):
                with TestClient(app) as client:
                    client.get("/orders/at-once")

            @pytest.fixture(scope="session")
            def running():
                with TestClient(app) as client:
                    yield client

            @pytest.mark.fastperf(max_queries=1, forbid=())
            @pytest.mark.parametrize("turn", [1, 2])
            def test_over_a_session(running, turn):
                running.get("/orders/at-once")
            """
        )
        result.assert_outcomes(failed=4)
        assert result.stdout.str().count("GET /orders/at-once: 2 SQL statements, at most 1") == 4

    def test_requests_to_a_real_server_are_observed(self, suite: Suite) -> None:
        result = suite(
            """
            import socket
            import threading
            import time

            import httpx
            import pytest
            import uvicorn
            from shop import app

            @pytest.fixture(scope="session")
            def server():
                listener = socket.create_server(("127.0.0.1", 0))
                server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
                thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
                thread.start()
                while not server.started:
                    time.sleep(0.01)
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
                server.should_exit = True
                thread.join()

            @pytest.mark.fastperf(max_queries=1, forbid=())
            @pytest.mark.parametrize("turn", range(5))
            def test_over(server, turn):
                assert httpx.get(f"{server}/orders/at-once").status_code == 200
            """
        )
        result.assert_outcomes(failed=5)

    @needs_watchdog
    @pytest.mark.parametrize("client", ["plain", "lifespan", "transport"])
    def test_a_blocked_loop_fails_the_test_with_the_line(self, suite: Suite, client: str) -> None:
        opened = {
            "plain": "client = TestClient(app)",
            "lifespan": "client = stack.enter_context(TestClient(app))",
            "transport": "client = Transport()",
        }[client]
        result = suite(
            f"""
            import asyncio
            from contextlib import ExitStack

            import httpx
            import pytest
            from fastapi.testclient import TestClient
            from shop import app

            pytestmark = pytest.mark.fastperf

            class Transport:
                def get(self, path):
                    async def ask():
                        transport = httpx.ASGITransport(app=app)
                        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                            await client.get(path)
                    asyncio.run(ask())

            @pytest.mark.parametrize("path", ["/blocking", "/awaiting"])
            def test_it(path):
                with ExitStack() as stack:
                    {opened}
                    client.get(path)
            """,
            shop=ASYNC_SHOP,
            conftest="",
        )
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["blocking_call in GET /blocking", "*At shop.py:* in blocking"])


OPTIONS_SHOP: Final = SHOP + WITH_DETECTOR

OLD_CODE: Final = """
import pytest
pytestmark = pytest.mark.usefixtures("fastperf")

def test_orders(client):
    client.get("/orders")

def test_luck(client):
    client.get("/health?bad=luck")

def test_weather(client):
    client.get("/orders/1?bad=weather")
"""

FORBIDDING: Final = INI + "fastperf_max_queries = 4\nfastperf_forbid = too_bad n_plus_one\n"
WITH_BASELINE: Final = FORBIDDING + "fastperf_baseline = known.json\n"


class TestOptions:
    def test_options_set_the_budget_of_all_tests_that_use_the_fixture(self, suite: Suite) -> None:
        result = suite(OLD_CODE, shop=OPTIONS_SHOP, ini=FORBIDDING)
        result.assert_outcomes(failed=3)
        result = suite(
            OLD_CODE.replace("pytestmark", "no_mark") + "\n@pytest.mark.fastperf(forbid=())\ndef test_own(client):\n"
            "    client.get('/health?bad=luck')\n",
            shop=OPTIONS_SHOP,
            ini=FORBIDDING,
        )
        result.assert_outcomes(passed=4)

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (
                "fastperf_max_queries = many",
                "fastperf_max_queries='many': must be a number. Remedy: set one, such as 20.",
            ),
            (
                "fastperf_forbid = n_plus_ones",
                "fastperf_forbid: 'n_plus_ones' is not a kind of finding. Remedy: use n_plus_one.",
            ),
            (
                "fastperf_baseline = nowhere.json",
                "nowhere.json does not exist. Remedy: create it with --fastperf-update-baseline.",
            ),
        ],
    )
    def test_a_wrong_option_is_a_usage_error(self, suite: Suite, line: str, said: str) -> None:
        result = suite("def test_it(): pass", ini=f"{INI}{line}\n")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert said in result.stderr.str()

    def test_the_report_has_findings_worst_first_and_figures_of_routes(
        self, suite: Suite, pytester: pytest.Pytester
    ) -> None:
        suite(OLD_CODE, "--fastperf-report=report.json", shop=OPTIONS_SHOP)
        report = json.loads((pytester.path / "report.json").read_text())
        found = [row for row in report["findings"] if row["kind"] == "too_bad"]
        assert [(row["route"], row["subject"], row["tests"]) for row in found] == [
            ("/health", "luck", ["test_shop.py::test_luck"]),
            ("/orders/{order_id}", "weather", ["test_shop.py::test_weather"]),
        ]
        assert (found[0]["file"], found[0]["line"], found[0]["remedy"]) == ("shop.py", 7, "be good")
        assert [(row["method"], row["route"], row["requests"], row["queries"]) for row in report["routes"]] == [
            ("GET", "/health", 1, 0),
            ("GET", "/orders", 1, 11),
            ("GET", "/orders/{order_id}", 1, 2),
        ]

    def test_the_summary_has_a_line_for_each_finding(self, suite: Suite) -> None:
        result = suite(
            "def test_luck(client, fastperf):\n    for number in range(13): client.get(f'/health?bad={number:02}')\n",
            shop=OPTIONS_SHOP,
        )
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(
            [
                "*= fastperf =*",
                "too_bad GET /health: 00, shop.py:7 in bad (1 test)",
                "too_bad GET /health: 09, *",
                "and 3 more; --fastperf-report=FILE.json writes all of them",
            ]
        )


class TestBaseline:
    def test_a_baseline_tolerates_old_problems_and_fails_new_ones(
        self, suite: Suite, pytester: pytest.Pytester
    ) -> None:
        baseline = pytester.path / "known.json"
        result = suite(OLD_CODE, "--fastperf-update-baseline", shop=OPTIONS_SHOP, ini=WITH_BASELINE)
        result.assert_outcomes(passed=3)
        result.stdout.fnmatch_lines(["baseline known.json: * known, * of them new; 0 removed"])
        first = baseline.read_text()
        own = [entry for entry in json.loads(first)["findings"] if entry["kind"] != "n_plus_one"]
        assert own == [
            {"kind": "max_queries", "method": "GET", "route": "/orders", "queries": 11},
            {
                "kind": "too_bad",
                "method": "GET",
                "route": "/health",
                "subject": "luck",
                "file": "shop.py",
                "function": "bad",
            },
            {
                "kind": "too_bad",
                "method": "GET",
                "route": "/orders/{order_id}",
                "subject": "weather",
                "file": "shop.py",
                "function": "bad",
            },
        ]

        moved = OPTIONS_SHOP.replace("bad(record)", "bad(record)").replace("__file__, 7", "__file__, 70")
        result = suite(OLD_CODE, shop=moved, ini=WITH_BASELINE)
        result.assert_outcomes(passed=3)
        result.stdout.fnmatch_lines(["too_bad GET /health: luck, shop.py:70 in bad (1 test, known)"])
        result.stdout.no_fnmatch_line("stale*")

        worse = OPTIONS_SHOP.replace("[len(order.items)", "[session.scalar(select(1)) and len(order.items)")
        result = suite(
            OLD_CODE + "\ndef test_new(client):\n    client.get('/orders?bad=day')\n", shop=worse, ini=WITH_BASELINE
        )
        assert result.parseoutcomes()["failed"] == 2
        result.stdout.fnmatch_lines(["too_bad in GET /orders"])
        result.stdout.fnmatch_lines(["GET /orders: 21 SQL statements, at most 4"])
        assert baseline.read_text() == first

    def test_a_fixed_finding_is_reported_and_removed_on_update(self, suite: Suite, pytester: pytest.Pytester) -> None:
        baseline = pytester.path / "known.json"
        suite(OLD_CODE, "--fastperf-update-baseline", shop=OPTIONS_SHOP, ini=WITH_BASELINE)
        mended = OLD_CODE.replace("?bad=luck", "")
        result = suite(mended, "--deselect", "test_shop.py::test_weather", shop=OPTIONS_SHOP, ini=WITH_BASELINE)
        result.assert_outcomes(passed=2, deselected=1)
        result.stdout.fnmatch_lines(["stale entries of the baseline*", "  too_bad GET /health: luck"])
        # its route was not requested, so the finding may still exist
        result.stdout.no_fnmatch_line("  too_bad GET /orders/{order_id}: weather")

        result = suite(mended, "--fastperf-update-baseline", "-k", "not weather", shop=OPTIONS_SHOP, ini=WITH_BASELINE)
        result.stdout.fnmatch_lines(["baseline known.json: *, 0 of them new; 1 removed"])
        left = [entry.get("subject") for entry in json.loads(baseline.read_text())["findings"]]
        assert "luck" not in left
        assert "weather" in left

    def test_a_baseline_never_tolerates_seconds_or_assertions(self, suite: Suite) -> None:
        result = suite(
            """
            import pytest

            @pytest.mark.fastperf(max_seconds=0.000001)
            def test_slow(client):
                client.get("/health")

            def test_asserted(client, fastperf):
                client.get("/orders")
                fastperf.assert_queries(at_most=4)
            """,
            "--fastperf-update-baseline",
            ini=WITH_BASELINE,
        )
        result.assert_outcomes(failed=2)

    @pytest.mark.parametrize(
        "content", ["", "[]", "{}", '{"version": 2, "findings": []}', '{"version": 1, "findings": 7}']
    )
    def test_an_invalid_baseline_file_is_an_error(self, suite: Suite, pytester: pytest.Pytester, content: str) -> None:
        (pytester.path / "other.json").write_text(content)
        result = suite("def test_it(): pass", "--fastperf-baseline=other.json")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "other.json cannot be read" in result.stderr.str()

    def test_an_update_without_a_file_is_an_error(self, suite: Suite) -> None:
        result = suite("def test_it(): pass", "--fastperf-update-baseline")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "--fastperf-baseline=FILE" in result.stderr.str()

    @pytest.mark.skipif(find_spec("xdist") is None, reason="pytest-xdist is not installed")
    def test_the_baseline_is_merged_over_worker_processes(self, suite: Suite, pytester: pytest.Pytester) -> None:
        options = ("--fastperf-update-baseline", "--fastperf-report=report.json")
        suite(OLD_CODE, *options, shop=OPTIONS_SHOP, ini=WITH_BASELINE)
        alone = (pytester.path / "known.json").read_text()
        (pytester.path / "known.json").unlink()
        result = suite(OLD_CODE, *options, "-n2", "--dist=each", shop=OPTIONS_SHOP, ini=WITH_BASELINE)
        result.assert_outcomes(passed=6)
        assert (pytester.path / "known.json").read_text() == alone
        routes = json.loads((pytester.path / "report.json").read_text())["routes"]
        assert [row["requests"] for row in routes] == [2, 2, 2]
        result = suite(OLD_CODE, "-n2", shop=OPTIONS_SHOP, ini=WITH_BASELINE)
        result.assert_outcomes(passed=3)
        result.stdout.fnmatch_lines(["too_bad GET /health: luck, shop.py:7 in bad (1 test, known)"])


class TestUnused:
    def test_a_project_without_markers_loads_nothing_and_sees_no_output(self, suite: Suite) -> None:
        result = suite(
            """
            import sys

            def test_it(pytestconfig):
                assert pytestconfig.pluginmanager.has_plugin("fastperf")
                heavy = {"fastapi", "starlette", "sqlalchemy", "opentelemetry", "pydantic", "prometheus_client"}
                assert not heavy & sys.modules.keys()
            """,
            # other plugins load some of these
            "-p",
            "no:anyio",
            "-W",
            "error",
            ini="[pytest]",
            conftest="",
        )
        result.assert_outcomes(passed=1)
        result.stdout.no_fnmatch_line("*= fastperf =*")

    def test_the_plugin_can_be_disabled(self, suite: Suite) -> None:
        result = suite("def test_it(fastperf): pass", "-p", "no:fastperf", ini="[pytest]")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*fixture 'fastperf' not found*"])

    def test_the_marker_is_registered_for_strict_markers(self, suite: Suite) -> None:
        result = suite(
            "import pytest\n@pytest.mark.fastperf\ndef test_it(client): client.get('/health')", "--strict-markers"
        )
        result.assert_outcomes(passed=1)

    def test_unittest_classes_and_doctests_work(self, suite: Suite) -> None:
        result = suite(
            '''
            """
            >>> 1 + 1
            2
            """
            import unittest
            import pytest
            from fastapi.testclient import TestClient
            from shop import app

            @pytest.mark.fastperf(max_queries=1, forbid=())
            class OrdersTest(unittest.TestCase):
                def test_within(self):
                    TestClient(app).get("/health")

                def test_over(self):
                    TestClient(app).get("/orders/at-once")
            ''',
            "--doctest-modules",
        )
        result.assert_outcomes(passed=2, failed=1)

    def test_the_environment_is_restored(self, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_FASTPERF_DATABASE_N_PLUS_ONE", "9")
        result = suite(
            """
            import os

            def test_what_was_set():
                assert os.environ["OTEL_FASTPERF_DATABASE_N_PLUS_ONE"] == "9"

            def test_what_was_not():
                assert os.environ["OTEL_FASTPERF_DATABASE_SYNC_ON_LOOP"] == "0"
            """,
            conftest="""
                import os
                import pytest

                @pytest.hookimpl(trylast=True)
                def pytest_unconfigure():
                    print({name for name in os.environ if name.startswith("OTEL_")})
                """,
        )
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["{'OTEL_FASTPERF_DATABASE_N_PLUS_ONE'}"])

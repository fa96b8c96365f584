"""Work that outlives its request: a task that the first request starts, and that runs for as long as the process does.

Whatever becomes of that request (it is left out, sampled out, or long gone), the task's own work is seen.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanKind
from sqlalchemy import StaticPool, create_engine, text

from otel_fastperf import Settings, Telemetry, setup_telemetry
from tests.serving import wait_until

NOT_SAMPLED = {"traceparent": f"00-{1:032x}-{1:016x}-00"}


class Shop:
    """An app whose first request starts a worker, which works when it is told to."""

    def __init__(self) -> None:
        self.app = FastAPI()
        # one for each: a tracer keeps to the first provider that it meets
        self.tracer = trace.get_tracer("worker")
        self.engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        self.work = asyncio.Semaphore(0)
        self.done = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.app.get("/health")(self.start)

    async def start(self, background: BackgroundTasks) -> None:
        self.tasks.append(asyncio.create_task(self.worker()))
        background.add_task(self.in_background)

    async def worker(self) -> None:
        while True:
            await self.work.acquire()
            with self.tracer.start_as_current_span("job"), self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            logging.getLogger("shop").warning("worked")
            self.done += 1

    async def in_background(self) -> None:
        self.tracer.start_span("in background").end()

    @asynccontextmanager
    async def client(self, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://shop") as client:
            client.headers.update(headers)
            yield client
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def works(self, times: int = 1) -> None:
        wanted = self.done + times
        for _ in range(times):
            self.work.release()
        while self.done < wanted:
            await asyncio.sleep(0.001)


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.engine.dispose()


def of_name(telemetry: Telemetry, name: str) -> list[ReadableSpan]:
    return [span for span in telemetry.spans() if span.name == name]


def statements(telemetry: Telemetry) -> float:
    return sum(
        sample.value
        for family in telemetry.metrics.registry.collect()
        if family.name == "db_client_operation_duration_seconds"
        for sample in family.samples
        if sample.name.endswith("_count") and sample.labels["db_operation_name"] == "SELECT"
    )


@pytest.fixture(params=["own provider", "joined provider"])
def _provider(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "joined provider":
        trace.set_tracer_provider(TracerProvider())
    yield
    trace._TRACER_PROVIDER = None
    trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()


@pytest.mark.usefixtures("_provider")
@pytest.mark.parametrize("why", ["excluded", "not sampled"])
def test_a_worker_that_an_unseen_request_started_is_seen(shop: Shop, why: str) -> None:
    headers = NOT_SAMPLED if why == "not sampled" else {}
    excluded = ["/health"] if why == "excluded" else []
    with setup_telemetry(shop.app, settings=Settings(requests={"excluded_urls": excluded})) as telemetry:

        async def main() -> None:
            async with shop.client(**headers) as client:
                await client.get("/health")
                await shop.works(3)

        asyncio.run(main())
        jobs, selects = of_name(telemetry, "job"), of_name(telemetry, "SELECT")
        assert len(jobs) == len(selects) == 3
        assert len({job.context.trace_id for job in jobs}) == 3
        assert [job.parent for job in jobs] == [None] * 3
        assert [select.parent for select in selects] == [job.context for job in jobs]
        assert statements(telemetry) == 3
        # the request's own background task is as unseen as the request
        assert of_name(telemetry, "in background") == []
        assert not [span for span in telemetry.spans() if span.kind is SpanKind.SERVER]


def test_its_statements_count_for_no_request(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(database={"n_plus_one": 3, "n_plus_one_seconds": 0, "frequent_query": 1e-6})
    with setup_telemetry(shop.app, settings=settings) as telemetry:

        async def main() -> None:
            async with shop.client() as client:
                await client.get("/health")
                await shop.works(20)

        asyncio.run(main())
        (request,) = of_name(telemetry, "GET /health")
        assert request.attributes is not None
        assert "fastperf.db.query_count" not in request.attributes
        assert [finding.route for finding in telemetry.findings() if finding.route == "/health"] == []
        assert statements(telemetry) == 20
        assert {record.__dict__["route"] for record in caplog.records if record.name == "shop"} == {""}


def test_a_worker_of_an_earlier_telemetry_is_seen_by_the_next(shop: Shop) -> None:
    seen: list[Any] = []

    async def main() -> None:
        async with shop.client() as client:
            first = setup_telemetry(shop.app)
            await client.get("/health")
            first.shutdown()
            second = setup_telemetry(shop.app)
            await shop.works(2)
            wait_until(lambda: statements(second) == 2, what="the statements are counted")
            seen.extend(span.name for span in second.spans())
            second.shutdown()

    asyncio.run(main())
    assert seen.count("SELECT") == seen.count("job") == 2

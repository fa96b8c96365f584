"""The apps that are measured: the same three endpoints, instrumented in one way each.

    /ping          no I/O
    /items/{id}    one SQL statement
    /report        ten SQL statements

`VARIANTS` names the ways. Each needs a process of its own, since instrumentation changes classes and globals. What a
variant exports goes over OTLP/HTTP, with the defaults of who exports it.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from opentelemetry import trace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.database import ITEMS, engine_for

#: by endpoint, one request of it
PATHS: Final = {"/ping": "/ping", "/items": "/items/7", "/report": "/report"}
#: SQL statements of a request
STATEMENTS: Final = {"/ping": 0, "/items": 1, "/report": 10}
#: where an app says how many requests of these it has served, and what it has used: seconds of CPU, MiB
USAGE: Final = "/usage"

_QUERY: Final = text(f"SELECT id, name FROM {ITEMS.name} WHERE id = :id")  # noqa: S608 - the table's name


@dataclass(frozen=True, slots=True)
class Setting:
    """What apps are made with: SQLAlchemy's async URL, and the base URL of the OTLP receiver."""

    dsn: str
    otlp: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to instrument. `apply(app, engine, otlp)` does it."""

    about: str
    apply: Callable[[FastAPI, AsyncEngine, str], None]


def make_app(variant: str, setting: Setting) -> FastAPI:
    """The app, instrumented."""
    engine = engine_for(setting.dsn)
    app = FastAPI()
    VARIANTS[variant].apply(app, engine, setting.otlp)
    _add_endpoints(app, engine)
    return app


def from_environment() -> FastAPI:
    """For `uvicorn --factory`: the app that `environment()` describes."""
    return make_app(os.environ["BENCH_VARIANT"], Setting(os.environ["BENCH_DSN"], os.environ["BENCH_OTLP"]))


def environment(variant: str, setting: Setting) -> dict[str, str]:
    """What `from_environment` reads, and of this process's environment what does not configure telemetry.

    The variant is the service's name too, by which `sink` tells them apart.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    own = {"BENCH_VARIANT": variant, "BENCH_DSN": setting.dsn, "BENCH_OTLP": setting.otlp}
    own["OTEL_SERVICE_NAME"] = variant
    # exporters would send what is for 127.0.0.1 to a proxy
    return kept | own | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def flush() -> None:
    """Have everything exported that was recorded, so that its cost is in the figures."""
    provider: Any = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush()


def _add_endpoints(app: FastAPI, engine: AsyncEngine) -> None:
    served = 0

    @app.get("/ping")
    async def ping() -> dict[str, bool]:
        nonlocal served
        served += 1
        return {"ok": True}

    @app.get("/items/{item_id}")
    async def item(item_id: int) -> dict[str, Any]:
        nonlocal served
        served += 1
        async with engine.connect() as connection:
            row = (await connection.execute(_QUERY, {"id": item_id})).one()
        return {"id": row.id, "name": row.name}

    @app.get("/report")
    async def report() -> list[str]:
        nonlocal served
        served += 1
        async with engine.connect() as connection:
            return [(await connection.execute(_QUERY, {"id": number})).one().name for number in range(1, 11)]

    @app.get(USAGE)
    def usage() -> dict[str, float]:
        flush()
        return {"served": served, "cpu": time.process_time(), "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    """Most memory that was resident."""
    # on Linux, `getrusage` begins with the peak of the process that started this one
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _bare(app: FastAPI, engine: AsyncEngine, otlp: str) -> None:
    """Nothing."""


def _contrib(app: FastAPI, engine: AsyncEngine, otlp: str, *, exclude_spans: list[Any] | None = None) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    _stock_pipeline(engine, otlp)
    FastAPIInstrumentor.instrument_app(app, exclude_spans=exclude_spans)


def _contrib_lean(app: FastAPI, engine: AsyncEngine, otlp: str) -> None:
    _contrib(app, engine, otlp, exclude_spans=["send", "receive"])


def _native(app: FastAPI, engine: AsyncEngine, otlp: str) -> None:
    config = getattr(app, "_telemetry", None)
    if config is None:
        sys.exit("The variant native needs FastAPI >= 0.142.")
    config.update(tracing=True, metrics=False, logs=False, operation_spans=False)
    _stock_pipeline(engine, otlp)


def _instrumentator(app: FastAPI, _engine: AsyncEngine, _otlp: str) -> None:
    from prometheus_fastapi_instrumentator import Instrumentator

    Instrumentator().instrument(app).expose(app)


def _stock(app: FastAPI, engine: AsyncEngine, otlp: str) -> None:
    _instrumentator(app, engine, otlp)
    _contrib(app, engine, otlp)


def _fastperf(app: FastAPI, engine: AsyncEngine, otlp: str, **groups: Any) -> None:
    from otel_fastperf import Settings, setup_telemetry

    traces = {"base_endpoint": otlp, **groups.pop("traces", {})}
    setup_telemetry(app, engines=engine, settings=Settings(traces=traces, **groups))


def _fastperf_10_percent(app: FastAPI, engine: AsyncEngine, otlp: str) -> None:
    _fastperf(app, engine, otlp, traces={"sampler": "parentbased_traceidratio", "sampler_arg": "0.1"})


def _fastperf_no_monitors(app: FastAPI, engine: AsyncEngine, otlp: str) -> None:
    off = {"enabled": False}
    _fastperf(app, engine, otlp, loop=off, threads=off, memory=off)


def _stock_pipeline(engine: AsyncEngine, otlp: str) -> None:
    """The SDK with its batch processor and OTLP exporter, and contrib's SQLAlchemy instrumentation."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{otlp}/v1/traces")))
    trace.set_tracer_provider(provider)
    # 0.66b1 takes SQLAlchemy below 2.1 alone, by a version check; it works with 2.1 all the same
    SQLAlchemyInstrumentor().instrument(engine=engine.sync_engine, skip_dep_check=True)


VARIANTS: Final = {
    "bare": Variant("no telemetry", _bare),
    "contrib": Variant("opentelemetry-instrumentation-fastapi and -sqlalchemy, defaults", _contrib),
    "contrib_nosr": Variant("the same without its send and receive spans: exclude_spans", _contrib_lean),
    "native": Variant("FastAPI's own request span, and -sqlalchemy", _native),
    "pfi": Variant("prometheus-fastapi-instrumentator, metrics alone", _instrumentator),
    "stock": Variant("contrib and pfi: what one wires by hand", _stock),
    "fastperf": Variant("otel_fastperf, defaults", _fastperf),
    "fastperf_10pct": Variant("otel_fastperf, one trace in ten sampled", _fastperf_10_percent),
    "fastperf_no_monitors": Variant("otel_fastperf without loop, thread and memory monitors", _fastperf_no_monitors),
}

"""The measured apps: the same three endpoints, each with one kind of instrumentation.

    /ping          no I/O
    /items/{id}    one SQL statement
    /report        ten SQL statements

`VARIANTS` lists the kinds. Each needs its own process, because instrumentation changes classes and globals. Variants
export over OTLP/HTTP, with the exporter's defaults.
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

#: endpoint -> path of a request
PATHS: Final = {"/ping": "/ping", "/items": "/items/7", "/report": "/report"}
#: endpoint -> SQL statements of a request
STATEMENTS: Final = {"/ping": 0, "/items": 1, "/report": 10}
#: path that returns the number of requests served, seconds of CPU, and peak MiB
USAGE: Final = "/usage"

_QUERY: Final = text(f"SELECT id, name FROM {ITEMS.name} WHERE id = :id")  # noqa: S608 - the table's name


@dataclass(frozen=True, slots=True)
class Setting:
    """SQLAlchemy's async URL of the database, and the base URL of the OTLP receiver."""

    dsn: str
    otlp: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of instrumentation; `apply(app, engine, otlp)` applies it."""

    about: str
    apply: Callable[[FastAPI, AsyncEngine, str], None]


def make_app(variant: str, setting: Setting) -> FastAPI:
    """Make the instrumented app."""
    engine = engine_for(setting.dsn)
    app = FastAPI()
    VARIANTS[variant].apply(app, engine, setting.otlp)
    _add_endpoints(app, engine)
    return app


def from_environment() -> FastAPI:
    """Make the app that `environment()` describes, for `uvicorn --factory`."""
    return make_app(os.environ["BENCH_VARIANT"], Setting(os.environ["BENCH_DSN"], os.environ["BENCH_OTLP"]))


def environment(variant: str, setting: Setting) -> dict[str, str]:
    """Return the variables for `from_environment`, and this process's environment without telemetry settings.

    The variant is also the service's name, by which `sink` counts spans.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    own = {"BENCH_VARIANT": variant, "BENCH_DSN": setting.dsn, "BENCH_OTLP": setting.otlp}
    own["OTEL_SERVICE_NAME"] = variant
    # otherwise exporters would send requests for 127.0.0.1 to a proxy
    return kept | own | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def flush() -> None:
    """Export everything that was recorded, so that the figures include its cost."""
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
    """Return the peak of the resident memory."""
    # on Linux, `getrusage` inherits the peak of the parent process
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _bare(app: FastAPI, engine: AsyncEngine, otlp: str) -> None:
    """Apply nothing."""


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
    # 0.66b1 accepts only SQLAlchemy below 2.1, by a version check, but works with 2.1
    SQLAlchemyInstrumentor().instrument(engine=engine.sync_engine, skip_dep_check=True)


VARIANTS: Final = {
    "bare": Variant("no telemetry", _bare),
    "contrib": Variant("opentelemetry-instrumentation-fastapi and -sqlalchemy, defaults", _contrib),
    "contrib_nosr": Variant("the same without its send and receive spans: exclude_spans", _contrib_lean),
    "native": Variant("FastAPI's own request span, and -sqlalchemy", _native),
    "pfi": Variant("prometheus-fastapi-instrumentator, metrics only", _instrumentator),
    "stock": Variant("contrib and pfi together", _stock),
    "fastperf": Variant("otel_fastperf, defaults", _fastperf),
    "fastperf_10pct": Variant("otel_fastperf, one trace in ten sampled", _fastperf_10_percent),
    "fastperf_no_monitors": Variant("otel_fastperf without loop, thread and memory monitors", _fastperf_no_monitors),
}

"""The measured apps: the same endpoints, each with one kind of instrumentation.

    /ping               no I/O
    /items/{id}         one SQL statement
    /report             ten SQL statements, the same one repeated
    /items-sync/{id}    one SQL statement of a synchronous driver
    /report-sync        ten of them

The last two read SQLite in memory on the event loop's thread. No other thread takes part, as aiosqlite's does, so their
figures vary less. `VARIANTS` lists the kinds. Each needs its own process, because instrumentation changes classes and
globals. Variants export over OTLP/HTTP, with the exporter's defaults.
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from opentelemetry import trace
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.database import ITEMS, engine_for, engine_in_memory

if TYPE_CHECKING:
    # each process imports only what its variant uses
    from opentelemetry.sdk.trace import SpanProcessor

#: endpoint -> path of a request
PATHS: Final = {
    "/ping": "/ping",
    "/items": "/items/7",
    "/report": "/report",
    "/items-sync": "/items-sync/7",
    "/report-sync": "/report-sync",
}
#: endpoint -> SQL statements of a request
STATEMENTS: Final = {"/ping": 0, "/items": 1, "/report": 10, "/items-sync": 1, "/report-sync": 10}
#: endpoints that read SQLite in memory
IN_MEMORY: Final = ("/items-sync", "/report-sync")
#: path that returns the number of requests served, seconds of CPU, and peak MiB
USAGE: Final = "/usage"

_QUERY: Final = text(f"SELECT id, name FROM {ITEMS.name} WHERE id = :id")  # noqa: S608 - the table's name


@dataclass(frozen=True, slots=True)
class Setting:
    """SQLAlchemy's async URL of the database, and the base URL of the OTLP receiver."""

    dsn: str
    otlp: str


#: the engines of an app: for the async endpoints, for the synchronous ones
Engines = tuple[AsyncEngine, Engine]


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of instrumentation; `apply(app, engines, otlp)` applies it. `needs` is a module that must be there."""

    about: str
    apply: Callable[[FastAPI, Engines, str], None]
    needs: str = "fastapi"


def installed(variants: Sequence[str]) -> list[str]:
    """Return the variants whose packages are installed; print a line for each of the others."""
    found = {variant: find_spec(VARIANTS[variant].needs) is not None for variant in variants}
    for variant in variants:
        if not found[variant]:
            print(f"{variant} is left out: {VARIANTS[variant].needs} is not installed", file=sys.stderr)
    return [variant for variant in variants if found[variant]]


def make_app(variant: str, setting: Setting) -> FastAPI:
    """Make the instrumented app."""
    engines = engine_for(setting.dsn), engine_in_memory()
    app = FastAPI()
    VARIANTS[variant].apply(app, engines, setting.otlp)
    _add_endpoints(app, *engines)
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
    # the order of sets and the collisions in dicts are the same in every process
    own["PYTHONHASHSEED"] = "0"
    # otherwise exporters would send requests for 127.0.0.1 to a proxy
    return kept | own | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def flush() -> None:
    """Export everything that was recorded, so that the figures include its cost."""
    provider: Any = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush()


def _add_endpoints(app: FastAPI, engine: AsyncEngine, in_memory: Engine) -> None:
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

    @app.get("/items-sync/{item_id}")
    async def item_sync(item_id: int) -> dict[str, Any]:
        nonlocal served
        served += 1
        with in_memory.connect() as connection:
            row = connection.execute(_QUERY, {"id": item_id}).one()
        return {"id": row.id, "name": row.name}

    @app.get("/report-sync")
    async def report_sync() -> list[str]:
        nonlocal served
        served += 1
        with in_memory.connect() as connection:
            return [connection.execute(_QUERY, {"id": number}).one().name for number in range(1, 11)]

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


def _bare(app: FastAPI, engines: Engines, otlp: str) -> None:
    """Apply nothing."""


def _contrib(app: FastAPI, engines: Engines, otlp: str, *, exclude_spans: list[Any] | None = None) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    _stock_pipeline(engines, otlp)
    FastAPIInstrumentor.instrument_app(app, exclude_spans=exclude_spans)


def _contrib_lean(app: FastAPI, engines: Engines, otlp: str) -> None:
    _contrib(app, engines, otlp, exclude_spans=["send", "receive"])


def _native(app: FastAPI, engines: Engines, otlp: str) -> None:
    _native_span(app)
    _stock_pipeline(engines, otlp)


def _native_fastotel(app: FastAPI, engines: Engines, otlp: str) -> None:
    from fastotel import OTLPSpanProcessor

    _native_span(app)
    _pipeline(engines, OTLPSpanProcessor(endpoint=f"{otlp}/v1/traces"))


def _native_span(app: FastAPI) -> None:
    config = getattr(app, "_telemetry", None)
    if config is None:
        sys.exit("The variant native needs FastAPI >= 0.142.")
    config.update(tracing=True, metrics=False, logs=False, operation_spans=False)


def _instrumentator(app: FastAPI, _engines: Engines, _otlp: str) -> None:
    from prometheus_fastapi_instrumentator import Instrumentator

    Instrumentator().instrument(app).expose(app)


def _stock(app: FastAPI, engines: Engines, otlp: str) -> None:
    _instrumentator(app, engines, otlp)
    _contrib(app, engines, otlp)


def _fastperf(app: FastAPI, engines: Engines, otlp: str, **groups: Any) -> None:
    from otel_fastperf import Settings, setup_telemetry

    traces = {"base_endpoint": otlp, **groups.pop("traces", {})}
    # the synchronous statements are there to be measured; some requests would pay for a finding, others not
    database = {"sync_on_loop": 1.0}
    setup_telemetry(app, engines=engines, settings=Settings(traces=traces, database=database, **groups))


def _fastperf_10_percent(app: FastAPI, engines: Engines, otlp: str) -> None:
    _fastperf(app, engines, otlp, traces={"sampler": "parentbased_traceidratio", "sampler_arg": "0.1"})


def _fastperf_kept(app: FastAPI, engines: Engines, otlp: str) -> None:
    keep = {"keep": ["error", "finding", "slow"]}
    _fastperf(app, engines, otlp, traces={"sampler": "parentbased_traceidratio", "sampler_arg": "0.1", **keep})


def _fastperf_no_monitors(app: FastAPI, engines: Engines, otlp: str) -> None:
    off = {"enabled": False}
    _fastperf(app, engines, otlp, loop=off, threads=off, memory=off)


def _stock_pipeline(engines: Engines, otlp: str) -> None:
    """The SDK with its batch processor and OTLP exporter, and contrib's SQLAlchemy instrumentation."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    _pipeline(engines, BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{otlp}/v1/traces")))


def _pipeline(engines: Engines, processor: "SpanProcessor") -> None:
    """The SDK with a processor, and contrib's SQLAlchemy instrumentation."""
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider()
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    of_async, in_memory = engines
    # 0.66b1 accepts only SQLAlchemy below 2.1, by a version check, but works with 2.1
    SQLAlchemyInstrumentor().instrument(engines=[of_async.sync_engine, in_memory], skip_dep_check=True)


_PFI: Final = "prometheus_fastapi_instrumentator"

VARIANTS: Final = {
    "bare": Variant("no telemetry", _bare),
    "contrib": Variant("opentelemetry-instrumentation-fastapi and -sqlalchemy, defaults", _contrib),
    "contrib_nosr": Variant("the same without its send and receive spans: exclude_spans", _contrib_lean),
    "native": Variant("FastAPI's own request span, and -sqlalchemy", _native),
    "native_fastotel": Variant(
        "the same with fastotel, a processor and exporter in Rust", _native_fastotel, "fastotel"
    ),
    "pfi": Variant("prometheus-fastapi-instrumentator, metrics only", _instrumentator, _PFI),
    "stock": Variant("contrib and pfi together", _stock, _PFI),
    "fastperf": Variant("otel_fastperf, defaults but for findings about synchronous statements", _fastperf),
    "fastperf_10pct": Variant("otel_fastperf, one trace in ten sampled", _fastperf_10_percent),
    "fastperf_10pct_keep": Variant("the same, and what is notable of the others", _fastperf_kept),
    "fastperf_no_monitors": Variant("otel_fastperf without loop, thread and memory monitors", _fastperf_no_monitors),
}

"""A service that is observed on another system than this one: `python -m tests.elsewhere.observed FOLDER SYSTEM …`.

Each system has a process of its own, forked from one that has imported what the package needs.
"""

import json
import os
import pkgutil
import re
import sys
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool

import otel_fastperf
from tests.elsewhere.systems import System, pretend
from tests.otlp import Receiver
from tests.serving import Served, serve, wait_until


def shop() -> FastAPI:
    """Endpoints that are in order, and two that block the event loop."""
    app = FastAPI()
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

    @app.get("/items/{item_id}")
    def item(item_id: int) -> int:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        return item_id

    @app.get("/asleep")
    async def asleep() -> None:
        time.sleep(0.3)

    @app.get("/computing")
    async def computing() -> None:
        began = time.thread_time()
        while time.thread_time() - began < 0.3:
            pass

    return app


def import_all() -> Iterator[str]:
    """Import every module of the package anew; its names."""
    for name in [*sys.modules]:
        if name.partition(".")[0] == "otel_fastperf":
            del sys.modules[name]
    package = import_module("otel_fastperf")
    for module in pkgutil.walk_packages(package.__path__, "otel_fastperf."):
        if not module.name.endswith((".__main__", ".sitecustomize")):
            import_module(module.name)
            yield module.name


def observed(system: System) -> dict[str, Any]:
    """What the package tells on this system."""
    with Receiver() as receiver:
        os.environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "otlp"}
        pretend(system)
        told = told_by_service()
    assert receiver.corrupt == []
    return told | {"spans": [span.name for span in receiver.spans], "pushes": len(receiver.metrics)}


def told_by_service() -> dict[str, Any]:
    """Run the service on the system that this process pretends to run on."""
    modules = list(import_all())
    app = shop()
    telemetry = import_module("otel_fastperf").setup_telemetry(app)
    with serve(app, loop="none") as server:
        status = [server.get(f"/items/{number}").status for number in range(3)]
        for path, cause in (("/asleep", "sync_io"), ("/computing", "cpu")):
            # a busy machine may keep the watchdog from looking
            wait_until(lambda path=path, cause=cause: _is_blamed(server, path, cause), what=f"{path} blocks by {cause}")
        told = {
            "system": sys.platform,
            "modules": len(modules),
            "status": status,
            "page": server.get("/metrics").text,
            "debug": server.get("/debug/fastperf").status,
            "describe": telemetry.describe(),
            "report": str(telemetry.diagnose()),
            "findings": [[finding.kind, str(finding.route)] for finding in telemetry.findings()],
        }
    telemetry.shutdown()
    return told | {"handle": hasattr(app.state, "otel_fastperf_telemetry")}


def _is_blamed(server: Served, path: str, cause: str) -> bool:
    server.get(path)
    page = server.get("/metrics").text
    return (
        re.search(rf'^fastperf_event_loop_blocked_seconds_count{{.*cause="{cause}".*}} ', page, re.MULTILINE)
        is not None
    )


def main(folder: Path, systems: list[System]) -> None:
    """Write what is told on each system. Fails if one of them does."""
    for system in systems:
        child = os.fork()
        if not child:
            try:
                (folder / f"{system}.json").write_text(json.dumps(observed(system)))
            except BaseException:  # noqa: BLE001 - its process ends here
                traceback.print_exc()
                os._exit(1)
            sys.exit()
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{system} failed")


if __name__ == "__main__":
    import_module(otel_fastperf.setup_telemetry.__module__)  # with all that it needs
    main(Path(sys.argv[1]), sys.argv[2:])  # type: ignore[arg-type]

"""The shop with its telemetry: `uvicorn demo.app:app`."""

from typing import Any, Final

from demo.service import create_app
from demo.span_route import add_spans_route
from otel_fastperf import Settings, setup_telemetry

#: the defaults watch for minutes; a demo of 30 seconds needs results sooner
_QUICK: Final[dict[str, Any]] = {
    "memory": {"interval": 0.25, "growth_window": 8, "growth_bytes": 8 * 1024 * 1024},
    "cache": {"interval": 1, "lookups": 100},
}

app = create_app()
telemetry = setup_telemetry(
    app,
    settings=Settings(requests={"excluded_urls": ("/health", "/demo/")}, explain={"enabled": True}, **_QUICK),
)
add_spans_route(app, telemetry.spans)

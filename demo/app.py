"""The service as it is run: `uvicorn demo.app:app`."""

from demo.service import create_app
from demo.spans import add_spans_route
from otel_fastperf import Settings, setup_telemetry

app = create_app()
telemetry = setup_telemetry(app, settings=Settings(requests={"excluded_urls": ("/health", "/demo/")}))
add_spans_route(app, telemetry.spans)

"""The detector in docs/detectors.md works as the page says."""

import re
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text

from otel_fastperf import Finding, RequestView, setup_telemetry

PAGE: Final = Path(__file__).parents[1] / "docs" / "detectors.md"


def test_the_example_yields_its_finding_until_it_is_removed() -> None:
    detector, registration = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    app = FastAPI()
    engine = create_engine("sqlite://")

    @app.get("/statements/{count}")
    def statements(count: int) -> None:
        with engine.connect() as connection:
            for _ in range(count):
                connection.execute(text("SELECT 1"))

    names: dict[str, Any] = {"app": app, "setup_telemetry": setup_telemetry}
    exec(compile(detector + registration, str(PAGE), "exec"), names)
    telemetry = names["telemetry"]
    found: list[tuple[Finding, RequestView | None]] = []
    telemetry.add_finding_listener(lambda finding, request: found.append((finding, request)))
    with telemetry, TestClient(app) as client:
        client.get("/statements/20")
        client.get("/statements/21")
        names["remove"]()
        client.get("/statements/22")
    own = [(finding.route, finding.message) for finding, _ in found if finding.kind == "too_many_statements"]
    assert own == [("/statements/{count}", "21 SQL statements ran for one request; the limit is 20.")]

"""What AWS Lambda runs: Mangum around an app, called once per event. `python -m tests.guest.lambda_function LIFESPAN`.

Prints what events of API Gateway were answered with, and what was found meanwhile.
"""

import json
import sys
import time
from importlib import import_module
from typing import Any

from tests.service import app, telemetry


def event(path: str) -> dict[str, Any]:
    """A GET request as API Gateway describes it (payload format 2.0)."""
    http = {"method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "test"}
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "shop.example"},
        "requestContext": {"http": http, "stage": "$default", "requestId": "1", "domainName": "shop.example"},
        "isBase64Encoded": False,
    }


def main(lifespan: str) -> None:
    """Handle some events, with pauses in which no event loop runs, longer than what counts as a block."""
    handler = import_module("mangum").Mangum(app, lifespan=lifespan)

    def lambda_handler(what: dict[str, Any]) -> dict[str, Any]:
        try:
            return dict(handler(what, None))
        finally:
            telemetry.flush()

    answers = []
    for number in range(3):
        answers.append(lambda_handler(event(f"/items/{number}"))["body"])
        time.sleep(0.8)
    page = lambda_handler(event("/metrics"))["body"]
    findings = [finding.kind for finding in telemetry.findings()]
    sys.stdout.write(json.dumps({"answers": answers, "page": page, "findings": findings}))


if __name__ == "__main__":
    main(sys.argv[1])

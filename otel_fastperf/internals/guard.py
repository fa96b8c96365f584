"""The seam between telemetry and the app: a failure inside telemetry is counted and logged once, never raised.

OpenTelemetry's specification asks for it (error-handling.md: the API and SDK "must not throw unhandled exceptions at
run time"); stock instrumentations do not keep it.
"""

import logging
from collections.abc import Callable
from typing import Final

_logger: Final = logging.getLogger("otel_fastperf")


class Guard:
    """Takes the failures of telemetry's own parts.

    Written as `try: … except Exception as error: guard.failed("database", error)` on the hot path: a `try` that does
    not fail costs nothing, a context manager or a decorator does.
    """

    def __init__(self, count: Callable[[str], None]) -> None:
        """`count(part)` is called once a failure, with the name of the part that failed."""
        self._count = count
        self._logged: set[str] = set()

    def failed(self, part: str, error: BaseException) -> None:
        """Count a failure of `part`; the first of each part is logged with its traceback. Never raises."""
        try:
            self._count(part)
            if part not in self._logged:
                self._logged.add(part)
                _logger.warning(
                    "otel_fastperf: %s failed and was skipped; the app is not affected. Further failures of it are only"
                    " counted, in fastperf_telemetry_errors_total{part=%r}.",
                    part,
                    part,
                    exc_info=error,
                )
        except Exception:  # noqa: BLE001, S110 - a logging handler of the app's may raise; there is nobody left to tell
            pass

"""The seam between telemetry and the app: a failure inside telemetry is counted and logged once, never raised.

OpenTelemetry's specification demands this (error-handling.md: the API and SDK "must not throw unhandled exceptions at
run time"), but its own instrumentations do not comply.
"""

import logging
from collections.abc import Callable
from typing import Final

from otel_fastperf.internals.redaction import ErrorDetail, describe_error

_logger: Final = logging.getLogger("otel_fastperf")


class Guard:
    """Receives the failures of telemetry's parts.

    Use it as `try: … except Exception as error: guard.failed("database", error)`: unlike a context manager or a
    decorator, a `try` that does not fail costs nothing on the hot path.
    """

    def __init__(self, count: Callable[[str], None], detail: ErrorDetail = "scrubbed") -> None:
        """`count(part)` is called for each failure, with the name of the part that failed.

        `detail`: how much of the failure the log shows.
        """
        self._count = count
        self._detail = detail
        self._logged: set[str] = set()

    def failed(self, part: str, error: BaseException) -> None:
        """Count a failure of `part`, and log the first one of each part with its stack trace. Never raises."""
        try:
            self._count(part)
            if part not in self._logged:
                self._logged.add(part)
                _logger.warning(
                    "otel_fastperf: %s failed and was skipped; the app is not affected. Further failures are only"
                    " counted, in fastperf_telemetry_errors_total{part=%r}.\n%s",
                    part,
                    part,
                    # not as `exc_info`: a failure may repeat what a user has sent
                    describe_error(error, self._detail).stacktrace.rstrip(),
                )
        except Exception:  # noqa: BLE001, S110 - the app's logging handlers may raise; nothing can report that
            pass

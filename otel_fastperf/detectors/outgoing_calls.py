"""All detectors of outgoing calls, which have nothing to do for most requests."""

from collections.abc import Iterable
from itertools import chain
from typing import Final

from otel_fastperf.detectors.client_per_request import ClientsPerRequest
from otel_fastperf.detectors.recurrence import Recurrence
from otel_fastperf.detectors.repeated_calls import detect_repeated_calls
from otel_fastperf.detectors.serial_calls import SerialCalls
from otel_fastperf.detectors.slow_dependency import SlowDependencies
from otel_fastperf.findings import Finding
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.settings import ClientsSettings


class CallDetectors:
    """The detectors of outgoing calls of one telemetry."""

    def __init__(self, settings: ClientsSettings) -> None:
        self._settings = settings
        recurrences = tuple(Recurrence() for _ in range(3))
        slow, serial, made = recurrences
        self._recurrences: Final = recurrences
        self._detectors: Final = (
            SlowDependencies(settings, slow),
            SerialCalls(settings, serial),
            ClientsPerRequest(made),
        )

    def __call__(self, record: RequestRecord) -> Iterable[Finding]:
        """The findings of all of them. A request without calls counts too, where others of its route have some."""
        if record.calls is None and not any(each.is_used for each in self._recurrences):
            return ()
        return chain(
            detect_repeated_calls(record, self._settings),
            chain.from_iterable(detector(record) for detector in self._detectors),
        )

"""Names of GraphQL operations in routes: `/graphql getOrders`. Without them all operations are one route.

Strawberry asks its extensions before it executes an operation, which it has parsed and validated by then. The method
that asks them is wrapped, where strawberry is loaded; it is never imported from here. Clients choose the names, so
their number is bounded like that of any label that they choose.
"""

import logging
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from otel_fastperf.internals.open_labels import OpenLabels
from otel_fastperf.internals.patching import Patch, subscribed
from otel_fastperf.requests.record import RequestRecord, current_record
from otel_fastperf.signals import Signals

_logger: Final = logging.getLogger("otel_fastperf")

#: the class that asks the extensions, and its method
_MODULE: Final = "strawberry.extensions.runner"
_CLASS: Final = "SchemaExtensionsRunner"
_METHOD: Final = "executing"

#: a name as GraphQL defines it: https://spec.graphql.org/October2021/#Name ; a longer one is no name that people wrote
_NAME: Final = re.compile(r"[_A-Za-z][_0-9A-Za-z]{0,99}")


@asynccontextmanager
async def graphql_operations_named(signals: Signals) -> AsyncIterator[None]:
    """Add the operation to the route of requests that belong to `signals`, until the context manager exits.

    Called when the app starts, since its modules are loaded then.
    """
    runner = getattr(sys.modules.get(_MODULE), _CLASS, None)
    if not callable(getattr(runner, _METHOD, None)):
        _logger.warning(
            "otel_fastperf: requests.graphql_operations has no effect, because %s is not loaded."
            " Remedy: import strawberry before the app starts, or remove the setting.",
            f"{_MODULE}.{_CLASS}.{_METHOD}",
        )
        yield
        return
    with subscribed(runner, _METHOD, _noting, signals, _Operations(signals)):
        yield


class _Operations:
    """Notes the operations of one telemetry's requests. Safe to use from any thread."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._names = OpenLabels(("operation",), ("operation",))
        self._lock = threading.Lock()

    def note(self, record: RequestRecord, execution: Any) -> None:
        """Note the operation that a request is about to execute; of a batch, the first."""
        name = execution.operation_name
        if record.operation or record.scope["type"] != "http" or not name or not _NAME.fullmatch(name):
            return
        with self._lock:
            (admitted,), gave_way = self._names.admitted((name,))
        if gave_way:
            self._signals.metrics.count_overflow("http_server_request_duration_seconds", "http_route")
        record.operation = admitted
        record.span.set_attribute("graphql.operation.name", name)
        record.span.set_attribute("graphql.operation.type", str(execution.operation_type.value))

    def failed(self, error: Exception) -> None:
        """Count a failure."""
        self._signals.guard.failed("graphql", error)


def _noting(original: Callable[..., Any], patch: Patch[_Operations]) -> Callable[..., Any]:
    def executing(self: Any, *arguments: Any, **options: Any) -> Any:
        try:
            record = current_record()
            operations = None if record is None else patch.subscribers.get(id(record.owner))
            if record is not None and operations is not None and not record.excluded:
                operations.note(record, self.execution_context)
        except Exception as error:  # noqa: BLE001 - the operation is executed all the same
            for each in patch.subscribers.values():
                each.failed(error)
        return original(self, *arguments, **options)

    return executing

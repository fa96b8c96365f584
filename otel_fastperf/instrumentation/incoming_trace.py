"""The trace that a request continues: read from its headers by the global propagator, within bounds."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import Link
from starlette.types import Scope

from otel_fastperf.instrumentation.request_attributes import Headers, decoded
from otel_fastperf.signals import Signals

#: maximum length in bytes of all propagation headers together: W3C allows 512 of tracestate and 8,192 of baggage
_HEADER_BUDGET: Final = 16_384

#: propagators whose fields are all in this set read no other header, as some do that use one header per baggage entry
_W3C_FIELDS: Final = frozenset({"traceparent", "tracestate", "baggage"})


class _HeaderGetter(Getter[Headers]):
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        values = carrier.get(key.lower())
        # baggage may be split over several headers (W3C); the API's propagator reads only the first
        return [",".join(values)] if values and key == "baggage" else values

    def keys(self, carrier: Headers) -> list[str]:
        return list(carrier)


_GETTER: Final = _HeaderGetter()


class _Propagation(NamedTuple):
    """The global propagator and the headers to read for it."""

    propagator: TextMapPropagator
    #: names in lower case
    fields: frozenset[str]
    #: the same as they come over the wire; None if the propagator may read any header
    wanted: frozenset[bytes] | None


class IncomingTrace:
    """Finds the parent of a request's span. Shared by all requests of an app."""

    def __init__(self, signals: Signals, *, trust: bool) -> None:
        """Prepare. `trust`: continue the caller's trace; otherwise start a new one, linked to it."""
        self._signals = signals
        self._trust = trust
        self._propagation: _Propagation | None = None

    def parent(self, scope: Scope) -> tuple[Context | None, Sequence[Link]]:
        """The context to start the span in, and its links.

        The context is None for the current one: an in-process caller's, or an empty one under a server.
        """
        propagation, propagator = self._propagation, propagate.get_global_textmap()
        if propagation is None or propagation.propagator is not propagator:
            propagation = self._propagation = _reading_for(propagator)
        wanted = propagation.wanted
        if wanted is not None and wanted.isdisjoint([name.lower() for name, _ in scope["headers"]]):
            return None, ()
        headers = decoded(scope["headers"], wanted)
        if headers.keys().isdisjoint(propagation.fields):
            return None, ()
        size = sum(len(value) for field in propagation.fields for value in headers.get(field, ()))
        if size > _HEADER_BUDGET:
            self._signals.metrics.telemetry_errors.child("propagation_budget").inc()
            return None, ()
        if len(headers.get("traceparent", ())) > 1:
            # W3C trace context, 4.3: several traceparent headers are treated like none
            headers = {name: values for name, values in headers.items() if name not in {"traceparent", "tracestate"}}
        return self._extracted(propagator, headers)

    def _extracted(self, propagator: TextMapPropagator, headers: Headers) -> tuple[Context | None, Sequence[Link]]:
        try:
            context = propagator.extract(headers, context=Context(), getter=_GETTER)
        except Exception as error:  # noqa: BLE001 - propagators are foreign code
            self._signals.guard.failed("propagator", error)
            return None, ()
        if self._trust:
            return context, ()
        remote = trace.get_current_span(context).get_span_context()
        return Context(), [Link(remote)] if remote.is_valid else ()


def _reading_for(propagator: TextMapPropagator) -> _Propagation:
    fields = frozenset(field.lower() for field in propagator.fields)
    wanted = frozenset(name.encode() for name in fields) if fields <= _W3C_FIELDS else None
    return _Propagation(propagator, fields, wanted)

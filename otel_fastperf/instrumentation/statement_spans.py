"""The CLIENT span of a statement, and its duration as a metric.

Attributes: https://opentelemetry.io/docs/specs/semconv/db/database-spans/, the stable ones only. `error.type` is the
database's code if it has one (SQLSTATE, `SQLITE_CONSTRAINT_UNIQUE`, MySQL's number), else the exception's type. The
exception itself is recorded on the SERVER span: the conventions have no exception event on CLIENT spans.
"""

from typing import Any, Final

from opentelemetry.semconv.attributes.db_attributes import (
    DB_COLLECTION_NAME,
    DB_OPERATION_BATCH_SIZE,
    DB_OPERATION_NAME,
    DB_QUERY_SUMMARY,
    DB_QUERY_TEXT,
    DB_RESPONSE_STATUS_CODE,
)
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import NonRecordingSpan, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from sqlalchemy.engine import ExceptionContext

from otel_fastperf.instrumentation.observed_statement import EngineFacts, ObservedStatement, database_code
from otel_fastperf.internals.redaction import ErrorDetail, describe_error, error_type
from otel_fastperf.internals.spans import Exemplars, code_attributes, exemplar_of
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.signals import Signals
from otel_fastperf.sql.describe import QueryText
from otel_fastperf.tracing.tracer import FinishedSpan, LeanTracer, may_end_late

#: attribute of the execution context that carries the span of opentelemetry-instrumentation-sqlalchemy
_CONTRIB_SPAN: Final = "_otel_span"
#: statements whose encoded spans are remembered, as many as the texts that are
_MOST_TEMPLATES: Final = 512


class _Template:
    """What the telemetry of a statement's executions has in common.

    Attributes:
        span: All but ids and times.
        duration: The series that they count in; None until it is known, and if it is that of all label values beyond
            the limit: it is looked up each time, which counts what it takes.
    """

    __slots__ = ("duration", "engine", "query", "span")

    def __init__(self, query: QueryText, engine: EngineFacts, span: FinishedSpan) -> None:
        self.query: QueryText = query
        self.engine: EngineFacts = engine
        self.span: FinishedSpan = span
        self.duration: Any = None


class StatementSpans:
    """Emits spans and metrics of the statements of one telemetry."""

    def __init__(self, signals: Signals, settings: DatabaseSettings, *, exemplars: bool) -> None:
        """With `exemplars`, durations carry the ids of sampled spans."""
        self._signals = signals
        self._query_text = settings.query_text
        self._exemplars = Exemplars(on=exemplars)
        #: by the id of the query; the query itself is kept, so that its id stays its own
        self._templates: dict[int, _Template] = {}

    def may_wait(self, done: ObservedStatement) -> bool:
        """Whether the span of a statement may be emitted later: it succeeded, and the span is ours alone."""
        own = done.failure is None and _CONTRIB_SPAN not in done.execution.__dict__
        return own and may_end_late(self._signals.tracer)

    def emit_late(self, done: ObservedStatement) -> None:
        """Emit the span and the metric of a statement that succeeded and has waited for it."""
        try:
            tracer = self._signals.tracer
            if isinstance(tracer, LeanTracer) and done.site is None and done.batch_size <= 1:
                self._emit_from_template(done, tracer)
            else:
                self.emit(done)
        except Exception as error:  # noqa: BLE001 - costs this statement's telemetry
            self._signals.guard.failed("database", error)

    def _emit_from_template(self, done: ObservedStatement, tracer: LeanTracer) -> None:
        """The same as `emit` for a statement whose span has nothing of its own but ids and times."""
        query = done.query
        template = self._templates.get(id(query))
        if template is None or template.query is not query or template.engine is not done.engine:
            if len(self._templates) >= _MOST_TEMPLATES:
                self._templates.clear()
            span = FinishedSpan(self._name(done), SpanKind.CLIENT, self._attributes(done, "", ""))
            template = self._templates[id(query)] = _Template(query, done.engine, span)
        start, seconds = done.started_ns, done.seconds
        context = tracer.emit(template.span, done.context, start, start + int(seconds * 1e9))
        exemplary = self._exemplars.wants(seconds, done.started)
        duration = template.duration or self._duration_of(template)
        duration.observe(seconds, exemplar_of(NonRecordingSpan(context)) if exemplary else None)

    def _duration_of(self, template: _Template) -> Any:
        family, engine = self._signals.metrics.db_operation_duration, template.engine
        labels = (engine.system, engine.namespace, template.query.operation, "")
        duration = family.child(*labels)
        if family.has(*labels):
            template.duration = duration
        return duration

    def _measure(self, done: ObservedStatement, span: Span | None, error_kind: str) -> None:
        engine, family = done.engine, self._signals.metrics.db_operation_duration
        exemplar = None if span is None else self._exemplars.of(span, done.seconds, done.started)
        duration = family.child(engine.system, engine.namespace, done.query.operation, error_kind)
        duration.observe(done.seconds, exemplar)

    def emit(self, done: ObservedStatement) -> Span | None:
        """Emit the span and the duration; the span, or None if it could not be made."""
        engine = done.engine
        code = error_kind = ""
        if done.failure is not None:
            code = database_code(done.failure.original_exception, engine.system)
            error_kind = code or error_type(done.failure.original_exception)
        span = None
        try:
            span = self._trace(done, self._attributes(done, code, error_kind))
        except Exception as error:  # noqa: BLE001 - a sampler or processor that fails costs the span, not the metric
            self._signals.guard.failed("database", error)
        self._measure(done, span, error_kind)
        return span

    def _attributes(self, done: ObservedStatement, code: str, error_kind: str) -> dict[str, AttributeValue]:
        query = done.query
        attributes = {**done.engine.attributes, DB_OPERATION_NAME: query.operation}
        if query.summary:
            attributes[DB_QUERY_SUMMARY] = query.summary
        if query.collection:
            attributes[DB_COLLECTION_NAME] = query.collection
        if self._query_text:
            attributes[DB_QUERY_TEXT] = query.text
        if done.batch_size > 1:
            attributes[DB_OPERATION_BATCH_SIZE] = done.batch_size
        if code:
            attributes[DB_RESPONSE_STATUS_CODE] = code
        if error_kind:
            attributes[ERROR_TYPE] = error_kind
        return attributes | code_attributes(done.site)

    def _trace(self, done: ObservedStatement, attributes: dict[str, AttributeValue]) -> Span:
        """Add the attributes to contrib's span if it made one, else make our own."""
        span: Span | None = getattr(getattr(done, "execution", None), _CONTRIB_SPAN, None)
        if span is not None and span.get_span_context().is_valid:
            span.set_attributes(attributes)
            return span
        name = self._name(done)
        started_ns = done.started_ns
        span = self._signals.tracer.start_span(name, done.context, SpanKind.CLIENT, attributes, start_time=started_ns)
        if done.failure is not None and span.is_recording():
            span.set_status(Status(StatusCode.ERROR, _description(done.failure, self._signals.exceptions)))
        span.end(started_ns + int(done.seconds * 1e9))
        return span

    def _name(self, done: ObservedStatement) -> str:
        return done.query.summary or done.engine.namespace or done.engine.system


def _description(failure: ExceptionContext, detail: ErrorDetail) -> str | None:
    """The message without values: SQLAlchemy's exception knows the parameters, so they can be found and removed."""
    return describe_error(failure.sqlalchemy_exception or failure.original_exception, detail).message or None

"""The span of our provider: the OpenTelemetry API, and the SDK's `Span` for processors and exporters of others.

The SDK's span takes a lock and checks each attribute when it is set. This one stores values of plain types as they are,
takes no lock, and computes what is deferred only when somebody reads it. It keeps the SDK's limits:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#attribute-limits
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType, TracebackType
from typing import Any, Final, Protocol, TypeAlias

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationInfo, InstrumentationScope
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

from otel_fastperf.internals.redaction import ErrorDetail, describe_error, describe_text
from otel_fastperf.tracing.safe_sdk import GuardedProcessors
from otel_fastperf.tracing.shared_attributes import SharedAttributes

_logger: Final = logging.getLogger("otel_fastperf")

_UNSET: Final = Status(StatusCode.UNSET)
#: types whose values need no check and no copy
_PLAIN: Final = frozenset({int, float, bool})
#: the same where the length of a text has no limit
_PLAIN_OR_TEXT: Final = _PLAIN | {str}
_TEXT: Final = frozenset({str})
_NO_ATTRIBUTES: Final[Mapping[str, Any]] = MappingProxyType({})


class DeferredAttributes(Mapping[str, Any]):
    """Attributes that are computed when somebody first reads them: by `compute(source)`."""

    __slots__ = ("_compute", "_computed", "_source")

    def __init__(self, compute: Callable[[Any], Mapping[str, Any]], source: object) -> None:
        self._compute = compute
        self._source = source
        self._computed: Mapping[str, Any] | None = None

    def _values(self) -> Mapping[str, Any]:
        if self._computed is None:
            self._computed = self._compute(self._source)
        return self._computed

    def copy(self) -> dict[str, Any]:
        """The attributes, as samplers of old SDKs copy them."""
        return dict(self._values())

    def values_at_once(self) -> Mapping[str, Any]:
        """The attributes as they were computed, without a call for each of them."""
        return self._values()

    def __getitem__(self, key: str) -> Any:
        """The value of an attribute."""
        return self._values()[key]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._values())

    def __len__(self) -> int:
        """The number of attributes."""
        return len(self._values())


class SpanOrigin:
    """What the spans of one tracer share.

    Attributes:
        exceptions: How much of an exception the spans show.
        resource: Replaced after a fork.
        processor: Gets each span at its start and at its end.
    """

    __slots__ = ("exceptions", "info", "limits", "processor", "resource", "scope")

    def __init__(
        self,
        resource: Resource,
        scope: InstrumentationScope,
        info: InstrumentationInfo,
        limits: SpanLimits,
        processor: GuardedProcessors,
        exceptions: ErrorDetail,
    ) -> None:
        self.exceptions: ErrorDetail = exceptions
        self.resource: Resource = resource
        self.scope: InstrumentationScope = scope
        self.info: InstrumentationInfo = info
        self.limits: SpanLimits = limits
        self.processor: GuardedProcessors = processor


class LeanSpan(SdkSpan):
    """A recording span. Methods may be called from any thread; like the SDK's, they never raise for wrong values."""

    __slots__ = (
        "_attributes",
        "_context",
        "_deferred",
        "_dropped",
        "_end_time",
        "_events",
        "_kind",
        "_links",
        "_name",
        "_open",
        "_origin",
        "_parent",
        "_record_exception",
        "_recorded",
        "_resource",
        "_set_status_on_exception",
        "_shared",
        "_start_time",
        "_status",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - a span's parts
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        start_time: int,
        attributes: Attributes,
        links: Sequence[Link],
        origin: SpanOrigin,
        record_exception: bool,  # noqa: FBT001 - called for each span
        set_status_on_exception: bool,  # noqa: FBT001
    ) -> None:
        # instead of the SDK's, which makes a lock and four bounded collections
        self._name = name
        self._context: SpanContext = context
        self._parent = parent
        self._kind = kind
        self._start_time = start_time
        self._end_time: int | None = None
        self._status = _UNSET
        self._attributes: dict[str, Any] | None = None
        self._shared: SharedAttributes | None = None
        self._deferred: DeferredAttributes | None = None
        self._events: list[Event] | None = None  # type: ignore[assignment]
        self._links: list[Link] | None = None  # type: ignore[assignment]
        #: numbers of attributes, events and links that the limits dropped; None for none
        self._dropped: list[int] | None = None
        #: the message of the last exception that was recorded, and how it is shown
        self._recorded: tuple[str, str] | None = None
        self._origin = origin
        self._resource = origin.resource
        self._record_exception = record_exception
        self._set_status_on_exception = set_status_on_exception
        self._open = True
        if type(attributes) is DeferredAttributes:
            self._deferred = attributes
        elif attributes:
            self._set(attributes)
        for link in links:
            self._link(link.context, link.attributes)

    # what the API has

    def get_span_context(self) -> SpanContext:
        """Ids, flags and state."""
        return self._context

    def is_recording(self) -> bool:
        """Whether the span has not ended."""
        return self._end_time is None

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set one attribute; the newest value of a key counts."""
        if self._end_time is not None:
            _logger.warning("Setting attribute on ended span.")
            return
        self._set({key: value})

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set several attributes."""
        if self._end_time is not None:
            _logger.warning("Setting attribute on ended span.")
            return
        self._set(attributes)

    @property
    def is_plain(self) -> bool:
        """Whether the span has no event, no link and no status, and lost nothing to the limits."""
        return not (self._events or self._links or self._dropped) and self._status is _UNSET

    def settle(self, shared: SharedAttributes, own: dict[str, Any]) -> None:
        """Set attributes of plain types in place of the deferred ones. What the user has set stays.

        The span keeps both dicts; the caller changes them no more.
        """
        if self._end_time is not None:
            return
        before, self._attributes = self._attributes, None
        self._deferred = None
        limits = self._origin.limits
        most = limits.max_span_attributes
        if limits.max_span_attribute_length is None and (most is None or len(shared) + len(own) <= most):
            self._shared = shared
            self._attributes = own
        else:
            self._set(shared)
            self._set(own)
        if before:
            self._set(before)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Append an event; the limits keep the newest."""
        try:
            if name == "exception" and attributes and self._origin.exceptions != "full":
                attributes = self._shown_event(attributes)
            self._append_event(name, attributes, timestamp)
        except Exception as error:  # noqa: BLE001 - costs the event
            self._origin.processor.failed("span", error)

    def _append_event(self, name: str, attributes: Attributes, timestamp: int | None) -> None:
        if self._has_ended():
            return
        limits = self._origin.limits
        kept = BoundedAttributes(
            limits.max_event_attributes, attributes, immutable=True, max_value_len=limits.max_attribute_length
        )
        if self._events is None:
            self._events = []
        self._events.append(Event(name=name, attributes=kept, timestamp=timestamp))
        self._trim(self._events, limits.max_events, 1)

    def _shown_event(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """An event that somebody has made of an exception; its message stands in the stack trace too."""
        shown = dict(attributes)
        message, stacktrace = shown.get(EXCEPTION_MESSAGE), shown.get(EXCEPTION_STACKTRACE)
        if isinstance(message, str) and message:
            shown[EXCEPTION_MESSAGE] = self._shown_text(message)
            if isinstance(stacktrace, str) and message in stacktrace:
                shown[EXCEPTION_STACKTRACE] = stacktrace.replace(message, shown[EXCEPTION_MESSAGE])
        return shown

    def _shown_text(self, text: str) -> str:
        """A text that may contain the message of an exception, in the detail that settings ask for."""
        if self._recorded is not None and self._recorded[0] and text.endswith(self._recorded[0]):
            text = (text.removesuffix(self._recorded[0]) + self._recorded[1]).removesuffix(": ")
        return describe_text(text, self._origin.exceptions)

    def _safe_text(self, text: str) -> str | None:
        try:
            return self._shown_text(text) or None
        except Exception as error:  # noqa: BLE001 - a text that cannot be searched is not shown
            self._origin.processor.failed("span", error)
            return None

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Append a link; the limits keep the newest."""
        if not self._has_ended():
            self._link(context, attributes)

    def update_name(self, name: str) -> None:
        """Replace the name."""
        if not self._has_ended():
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; OK is final, and UNSET is ignored."""
        if self._has_ended() or self._status.status_code is StatusCode.OK:
            return
        if isinstance(status, StatusCode):
            status = Status(status, description)
        elif description is not None:
            _logger.warning("A description is ignored. Use either `Status` or `(StatusCode, Description)`")
        if status.status_code is not StatusCode.UNSET:
            if status.description and self._origin.exceptions != "full":
                status = Status(status.status_code, self._safe_text(status.description))
            self._status = status

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - the API's signature
    ) -> None:
        """Append an event of the exception, in the detail that settings ask for."""
        try:
            shown = describe_error(exception, self._origin.exceptions)
            # the API puts the message into the status too
            with suppress(Exception):
                self._recorded = str(exception), shown.message
            named: dict[str, Any] = {
                EXCEPTION_TYPE: shown.type,
                EXCEPTION_MESSAGE: shown.message,
                EXCEPTION_STACKTRACE: shown.stacktrace,
                "exception.escaped": str(escaped),
            }
            self._append_event("exception", named | dict(attributes or {}), timestamp)
        except Exception as error:  # noqa: BLE001 - costs the event
            self._origin.processor.failed("span", error)

    def end(self, end_time: int | None = None) -> None:
        """End the span and pass it to the processors."""
        try:
            # of several threads one succeeds, which needs no lock
            del self._open
        except AttributeError:
            _logger.warning("Calling end() on an ended span.")
            return
        processor = self._origin.processor
        if processor.ending:
            processor._on_ending(self)  # noqa: SLF001 - the SDK's hook
        if self._deferred is not None:
            # a span that is kept must not keep what its attributes are computed from
            try:
                self._compute()
            except Exception as error:  # noqa: BLE001 - costs these attributes
                self._origin.processor.failed("span", error)
        self._recorded = None
        self._end_time = time.time_ns() if end_time is None else end_time
        processor.on_end(self)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Record an exception as the tracer was told to, and end."""
        if exc_val is not None and self.is_recording():
            if self._record_exception:
                self.record_exception(exc_val, escaped=True)
            if self._set_status_on_exception:
                self.set_status(Status(StatusCode.ERROR, f"{type(exc_val).__name__}: {exc_val}"))
        self.end()

    # what processors and exporters read

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Read-only; computes what was deferred."""
        if self._deferred is not None:
            self._compute()
        own = self._attributes or {}
        return MappingProxyType(own if self._shared is None else {**self._shared, **own})

    @property
    def shared_attributes(self) -> SharedAttributes | None:
        """The part of `attributes` that `own_attributes` lacks, or None."""
        return self._shared

    @property
    def own_attributes(self) -> Mapping[str, Any]:
        """The attributes of this span alone. They take precedence over the shared ones."""
        return self._attributes or _NO_ATTRIBUTES

    @property
    def events(self) -> Sequence[Event]:
        """Oldest first."""
        return tuple(self._events or ())

    @property
    def links(self) -> Sequence[Link]:
        """In the order in which they were added."""
        return tuple(self._links or ())

    @property
    def status(self) -> Status:
        """Unset, OK or an error."""
        return self._status

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        """The tracer's."""
        return self._origin.scope

    @property
    def instrumentation_info(self) -> InstrumentationInfo:
        """The tracer's, as old exporters read it."""
        return self._origin.info

    @property
    def dropped_attributes(self) -> int:
        """Number of attributes that the limits dropped."""
        return self._dropped[0] if self._dropped else 0

    @property
    def dropped_events(self) -> int:
        """Number of events that the limits dropped."""
        return self._dropped[1] if self._dropped else 0

    @property
    def dropped_links(self) -> int:
        """Number of links that the limits dropped."""
        return self._dropped[2] if self._dropped else 0

    def to_json(self, indent: int | None = 4) -> str:
        """As the SDK writes its spans, which reads what this one has not got."""
        written = ReadableSpan(
            name=self._name,
            context=self._context,
            parent=self._parent,
            resource=self._resource,
            attributes=self.attributes,
            events=self.events,
            links=self.links,
            kind=self._kind,
            instrumentation_scope=self._origin.scope,
            status=self._status,
            start_time=self._start_time,
            end_time=self._end_time,
        )
        text: str = written.to_json(indent)
        return text

    def _readable_span(self) -> ReadableSpan:
        return self

    def _has_ended(self) -> bool:
        if self._end_time is None:
            return False
        _logger.warning("Tried calling a method on an ended span.")
        return True

    def _compute(self) -> None:
        """Compute the deferred attributes; what was set meanwhile wins."""
        deferred, self._deferred = self._deferred, None
        own, self._attributes = self._attributes, None
        if deferred is not None:
            self._set(deferred.values_at_once())
        if own:
            self._set(own)

    def _set(self, attributes: Mapping[str, Any]) -> None:
        limits, own = self._origin.limits, self._attributes
        if own is None:
            own = self._attributes = {}
        most = limits.max_span_attributes
        number = len(own) + len(attributes) + (0 if self._shared is None else len(self._shared))
        if (
            # what nearly all attributes are is seen without a step of the interpreter for each of them
            limits.max_span_attribute_length is None
            and _PLAIN_OR_TEXT.issuperset(map(type, attributes.values()))
            and _TEXT.issuperset(map(type, attributes))
            and "" not in attributes
            and (most is None or number <= most)
        ):
            own.update(attributes)
        else:
            if self._shared is not None:
                # the oldest attributes are the first to make room
                own = self._attributes = {**self._shared, **own}
                self._shared = None
            self._set_each(attributes, own, limits.max_span_attribute_length, most)

    def _set_each(
        self, attributes: Mapping[str, Any], own: dict[str, Any], length: int | None, most: int | None
    ) -> None:
        for key, value in attributes.items():
            kind = type(value)
            if kind is str:
                checked = value if length is None else value[:length]
            elif kind in _PLAIN:
                checked = value
            else:
                checked = _checked(value, length)
            if checked is None or type(key) is not str or not key:
                self._count_dropped(0, 1)
                continue
            if most is not None and len(own) >= most and key not in own:
                if not most:
                    self._count_dropped(0, 1)
                    continue
                del own[next(iter(own))]
                self._count_dropped(0, 1)
            own[key] = checked

    def _link(self, context: SpanContext, attributes: Attributes) -> None:
        if not (context.is_valid or attributes or context.trace_state):
            return
        limits = self._origin.limits
        kept = BoundedAttributes(
            limits.max_link_attributes, attributes, immutable=True, max_value_len=limits.max_attribute_length
        )
        if self._links is None:
            self._links = []
        self._links.append(Link(context=context, attributes=kept))
        self._trim(self._links, limits.max_links, 2)

    def _trim(self, items: list[Any], most: int | None, what: int) -> None:
        if most is not None and len(items) > most:
            excess = len(items) - most
            del items[:excess]
            self._count_dropped(what, excess)

    def _count_dropped(self, what: int, number: int) -> None:
        if self._dropped is None:
            self._dropped = [0, 0, 0]
        self._dropped[what] += number


#: what can be read of a span that has ended
EndedSpan: TypeAlias = ReadableSpan


#: the kinds of an outgoing call's span. A tuple, because the hash of an enum's member is a call in Python
OUTGOING: Final = (SpanKind.CLIENT, SpanKind.PRODUCER)


class OpenCall(Protocol):
    """An outgoing call whose span is open."""

    def end(self, span: EndedSpan) -> None:
        """The call has ended. A span of ours still takes attributes. Must not raise."""


#: Called at the start of each CLIENT and PRODUCER span with the name of its scope, and whether it is inside of another
#: such span. Returns None if the call is not to be watched. Must not raise.
CallWatcher: TypeAlias = Callable[[str, bool], OpenCall | None]


class CallSpan(LeanSpan):
    """The span of an outgoing call that is watched.

    The watcher wants to know of every call, so there is a span even if the sampler drops it: one that no processor
    gets.
    """

    __slots__ = ("_call", "_is_dropped")

    def watched(self, call: OpenCall, *, is_dropped: bool) -> "CallSpan":
        """Tell `call` of the span's end. `is_dropped`: the sampler does not want the span."""
        self._call: OpenCall | None = call
        self._is_dropped = is_dropped
        return self

    @property
    def call(self) -> OpenCall | None:
        """Whom it tells; None once it has ended."""
        return self._call

    def end(self, end_time: int | None = None) -> None:
        """Tell the watcher, then end."""
        call, self._call = self._call, None
        if call is not None:
            try:
                call.end(self)
            except Exception as error:  # noqa: BLE001 - the span is the application's
                self._origin.processor.failed("clients", error)
        if not self._is_dropped:
            super().end(end_time)
        elif self._end_time is None:
            self._end_time = time.time_ns() if end_time is None else end_time


def _checked(value: Any, length: int | None) -> Any:
    """A value of another type as the SDK stores it; None if it is not an attribute value. Enum members become plain."""
    if isinstance(value, str):
        return str.__str__(value)[:length]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return BoundedAttributes(1, {"value": value}, immutable=True, max_value_len=length).get("value")

"""Samplers and span processors that cannot fail the code that starts and ends spans.

The SDK calls both unguarded: one that raises fails the request, or the user's own code.
"""

import time
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, SynchronousMultiSpanProcessor, sampling
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from otel_fastperf.errors import SetupError
from otel_fastperf.internals.guard import Guard
from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.otlp_encoder import EncodedSpan

#: the hook that does nothing; OpenTelemetry < 1.39 has none
_SDK_ON_ENDING: Final = getattr(SpanProcessor, "_on_ending", None)

#: Decides by the valid parent, if any, and the trace id whether a span is sampled. None: the sampler must be asked.
Decide = Callable[[SpanContext | None, int], bool | None]

#: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ : OTEL_TRACES_SAMPLER
_SAMPLERS: Final[dict[str, tuple[sampling.Sampler, Decide]]] = {
    "always_on": (sampling.ALWAYS_ON, lambda _parent, _trace_id: True),
    "always_off": (sampling.ALWAYS_OFF, lambda _parent, _trace_id: False),
    "parentbased_always_on": (sampling.DEFAULT_ON, lambda parent, _trace_id: parent is None or _is_sampled(parent)),
    "parentbased_always_off": (
        sampling.DEFAULT_OFF,
        lambda parent, _trace_id: parent is not None and _is_sampled(parent),
    ),
}
_RATIO_SAMPLERS: Final = frozenset({"traceidratio", "parentbased_traceidratio"})


def sampler_of(settings: TracesSettings, guard: Guard) -> "GuardedSampler":
    """The sampler that the settings name, guarded.

    Raises:
        SetupError: An installed sampler (entry point `opentelemetry_traces_sampler`) cannot be made.
    """
    name = settings.sampler.lower()
    if name in _SAMPLERS:
        sampler, decide = _SAMPLERS[name]
        return GuardedSampler(sampler, guard, decide)
    if name in _RATIO_SAMPLERS:
        return ratio_sampler(float(settings.sampler_arg or 1.0), guard, respects_parent=name.startswith("parentbased"))
    return GuardedSampler(_installed_sampler(settings), guard)


def ratio_sampler(ratio: float, guard: Guard, *, respects_parent: bool) -> "GuardedSampler":
    """A sampler that keeps this fraction of traces. `respects_parent`: if there is a parent, it decides."""
    bound = sampling.TraceIdRatioBased(ratio).bound

    def decide(parent: SpanContext | None, trace_id: int) -> bool:
        if parent is not None and respects_parent:
            return _is_sampled(parent)
        return trace_id & sampling.TraceIdRatioBased.TRACE_ID_LIMIT < bound

    kind = sampling.ParentBasedTraceIdRatio if respects_parent else sampling.TraceIdRatioBased
    return GuardedSampler(kind(ratio), guard, decide)


def _is_sampled(parent: SpanContext) -> bool:
    return parent.trace_flags & 1 == 1


def _ask(_parent: SpanContext | None, _trace_id: int) -> None:
    """Decide nothing."""


def _installed_sampler(settings: TracesSettings) -> sampling.Sampler:
    try:
        (point,) = entry_points(group="opentelemetry_traces_sampler", name=settings.sampler)
        sampler = point.load()(settings.sampler_arg)
    except Exception as error:
        message = (
            f"the sampler {settings.sampler!r} cannot be made with the argument {settings.sampler_arg!r}"
            f" ({type(error).__name__}: {error}). Remedy: correct OTEL_TRACES_SAMPLER or OTEL_TRACES_SAMPLER_ARG"
        )
        raise SetupError(message) from error
    if not isinstance(sampler, sampling.Sampler):
        message = (
            f"the sampler {settings.sampler!r} makes a {type(sampler).__name__}, which is no"
            " opentelemetry.sdk.trace.sampling.Sampler. Remedy: correct OTEL_TRACES_SAMPLER"
        )
        raise SetupError(message)
    return sampler


class GuardedSampler(sampling.Sampler):
    """A sampler whose failure means: do not record.

    Attributes:
        decide: What the sampler would decide, without the cost of asking it; returns None for samplers of others.
    """

    def __init__(self, sampler: sampling.Sampler, guard: Guard, decide: Decide = _ask) -> None:
        self._sampler = sampler
        self._guard = guard
        self.decide: Final = decide

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> sampling.SamplingResult:
        """As the sampler says."""
        try:
            # as the SDK calls it: many samplers have no seventh parameter
            more = () if trace_state is None else (trace_state,)
            result = self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, *more)
            result.decision.is_recording()  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001 - the user's sampler
            self._guard.failed("sampler", error)
            parent = trace.get_current_span(parent_context).get_span_context()
            return sampling.SamplingResult(sampling.Decision.DROP, trace_state=parent.trace_state)
        return result

    def get_description(self) -> str:
        """The sampler's own."""
        return self._sampler.get_description()


TakeEncoded = Callable[[EncodedSpan], None]


class ReadsLate(SpanProcessor):
    """A processor that does not mind if a span is ended some milliseconds after its end."""

    @property
    def take_encoded(self) -> TakeEncoded | None:
        """Takes a span that has been encoded already; None if the processor needs the span itself."""
        return None


class GuardedProcessors(SynchronousMultiSpanProcessor):
    """The processors of one provider; one that raises is counted, and the others are called all the same.

    Attributes:
        guard: Counts their failures.
        reads_late: Whether all of them do; false as soon as there is one that is not ours.
        take_encoded: That of the only processor, if it is ours and has it.
        call_watcher: Told of each outgoing call; see `CallWatcher` in `span`.
        starting, ending: Those that look at spans when they start, or just before they end, which few do.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.guard: Final = guard
        self.reads_late: bool = True
        self.take_encoded: TakeEncoded | None = None
        self.call_watcher: Callable[[str, bool], Any] | None = None
        self.starting: tuple[SpanProcessor, ...] = ()
        self.ending: tuple[SpanProcessor, ...] = ()

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Call it last."""
        super().add_span_processor(span_processor)
        late = [processor for processor in self._span_processors if isinstance(processor, ReadsLate)]
        self.reads_late = len(late) == len(self._span_processors)
        self.take_encoded = late[0].take_encoded if self.reads_late and len(late) == 1 else None
        if type(span_processor).on_start is not SpanProcessor.on_start:
            self.starting = (*self.starting, span_processor)
        if getattr(type(span_processor), "_on_ending", None) is not _SDK_ON_ENDING:
            self.ending = (*self.ending, span_processor)

    def failed(self, part: str, error: Exception) -> None:
        """Count a failure inside of a span; see `Guard`."""
        self.guard.failed(part, error)

    @property
    def processors(self) -> tuple[SpanProcessor, ...]:
        """In the order in which they are called."""
        return self._span_processors

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Pass on."""
        for processor in self.starting:
            try:
                processor.on_start(span, parent_context=parent_context)
            except Exception as error:  # noqa: BLE001 - the user's processor
                self.guard.failed("span_processor", error)

    def _on_ending(self, span: Span) -> None:
        for processor in self.ending:
            try:
                processor._on_ending(span)  # noqa: SLF001 - the SDK's hook
            except Exception as error:  # noqa: BLE001
                self.guard.failed("span_processor", error)

    def on_end(self, span: ReadableSpan) -> None:
        """Pass on."""
        for processor in self._span_processors:
            try:
                processor.on_end(span)
            except Exception as error:  # noqa: BLE001
                self.guard.failed("span_processor", error)

    def shutdown(self) -> None:
        """Pass on."""
        for processor in self._span_processors:
            try:
                processor.shutdown()
            except Exception as error:  # noqa: BLE001
                self.guard.failed("span_processor", error)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Pass on, one after the other, until the time is up; the SDK's own goes by the system clock."""
        deadline = time.monotonic() + timeout_millis / 1000
        flushed = True
        for processor in self._span_processors:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                # a processor may answer None: the SDK's interface did until 1.39
                flushed = processor.force_flush(int(left * 1000)) is not False and flushed
            except Exception as error:  # noqa: BLE001
                self.guard.failed("span_processor", error)
                flushed = False
        return flushed

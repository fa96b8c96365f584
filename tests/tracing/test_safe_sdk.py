"""A failing sampler or span processor loses its span, but never fails the code that creates spans."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import TraceFlags, TraceState

from otel_fastperf.errors import SettingsError, SetupError
from otel_fastperf.settings import Settings
from otel_fastperf.tracing.safe_sdk import GuardedSampler
from tests.tracing.conftest import Open, Opened


class Raising(Sampler):
    """A sampler that raises in every method."""

    def should_sample(self, *arguments: Any, **options: Any) -> SamplingResult:
        message = "sampler"
        raise RuntimeError(message)

    def get_description(self) -> str:
        return "raising"


class Nothing(Raising):
    """A sampler whose result is not a sampling result."""

    def should_sample(self, *arguments: Any, **options: Any) -> Any:
        return None


class Clumsy(SpanProcessor):
    """A processor that raises in every hook."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        message = "on_start"
        raise RuntimeError(message)

    def _on_ending(self, span: Span) -> None:
        message = "_on_ending"
        raise RuntimeError(message)

    def on_end(self, span: ReadableSpan) -> None:
        message = "on_end"
        raise RuntimeError(message)

    def shutdown(self) -> None:
        message = "shutdown"
        raise RuntimeError(message)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        message = "force_flush"
        raise RuntimeError(message)


def names(opened: Opened) -> list[str]:
    assert opened.tracing.store is not None
    return [span.name for span in opened.tracing.store.spans()]


def use_sampler(opened: Opened, sampler: Sampler) -> None:
    """Use this sampler as if the settings had named it."""
    guarded = opened.tracing.tracer.sampler  # type: ignore[attr-defined]
    assert isinstance(guarded, GuardedSampler)
    GuardedSampler.__init__(guarded, sampler, guarded._guard)


@pytest.mark.parametrize("sampler", [Raising(), Nothing(), ParentBased(Raising())])
def test_a_failing_sampler_yields_an_unrecorded_span(open_it: Open, sampler: Sampler) -> None:
    opened = open_it()
    use_sampler(opened, sampler)
    with opened.tracing.tracer.start_as_current_span("request") as span:
        assert not span.is_recording()
        assert span.get_span_context().is_valid
    assert names(opened) == []
    assert opened.failures == ["sampler"]


def test_a_failing_sampler_does_not_fail_the_user_s_spans_either(open_it: Open) -> None:
    opened = open_it()
    use_sampler(opened, Raising())
    trace.get_tracer("user").sampler = opened.tracing.tracer.sampler  # type: ignore[attr-defined]
    with trace.get_tracer("user").start_as_current_span("mine") as span:
        assert not span.is_recording()


def test_a_failing_sampler_keeps_the_caller_s_trace_state(open_it: Open) -> None:
    opened = open_it()
    use_sampler(opened, Raising())
    parent = trace.SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("k", "v")]))
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    span = opened.tracing.tracer.start_span("request", context)
    assert span.get_span_context().trace_state.get("k") == "v"
    assert span.get_span_context().trace_id == 1


def test_a_failing_processor_is_counted_and_the_others_get_the_span(open_it: Open) -> None:
    opened = open_it()
    opened.tracing.provider.add_span_processor(Clumsy())  # type: ignore[attr-defined]
    opened.emit(1)
    assert names(opened) == ["span"]
    assert set(opened.failures) == {"span_processor"}
    assert len(opened.failures) >= 2
    assert not opened.tracing.flush(2.0)
    opened.close()


@pytest.mark.parametrize(
    ("sampler", "argument", "kept"),
    [
        ("always_on", "", 20),
        ("always_off", "", 0),
        ("parentbased_always_on", "", 20),
        ("parentbased_always_off", "", 0),
        ("traceidratio", "0", 0),
        ("traceidratio", "", 20),
        ("parentbased_traceidratio", "1.0", 20),
        ("PARENTBASED_TRACEIDRATIO", "0.0", 0),
    ],
)
def test_the_standard_samplers_are_available(open_it: Open, sampler: str, argument: str, kept: int) -> None:
    opened = open_it(sampler=sampler, sampler_arg=argument)
    opened.emit(20)
    assert len(names(opened)) == kept


def test_parentbased_follows_the_caller(open_it: Open) -> None:
    opened = open_it(sampler="parentbased_always_on")
    parent = trace.SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(0))
    span = opened.tracing.tracer.start_span("x", trace.set_span_in_context(trace.NonRecordingSpan(parent)))
    assert not span.is_recording()


def test_a_recorded_but_unsampled_span_is_not_delivered(open_it: Open) -> None:
    class RecordOnly(Raising):
        def should_sample(self, *arguments: Any, **options: Any) -> SamplingResult:
            return SamplingResult(Decision.RECORD_ONLY)

    opened = open_it()
    use_sampler(opened, RecordOnly())
    opened.emit(1)
    assert names(opened) == []


def test_an_unknown_sampler_is_refused_by_the_settings() -> None:
    with pytest.raises(SettingsError, match="nonsense"):
        Settings(traces={"sampler": "nonsense"})


PLUGIN = """
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

class Named(ParentBased):
    def __init__(self, argument):
        super().__init__(ALWAYS_ON)
        self.argument = argument

    def get_description(self):
        return f"mine({self.argument})"

def fails(argument):
    raise ValueError(argument)

def no_sampler(argument):
    return argument
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An installed package that offers the sampler `mine`."""

    def install(factory: str) -> None:
        (tmp_path / "a_sampler_plugin.py").write_text(PLUGIN)
        meta = tmp_path / "a_sampler_plugin-1.dist-info"
        meta.mkdir()
        (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: a-sampler-plugin\nVersion: 1\n")
        (meta / "entry_points.txt").write_text(f"[opentelemetry_traces_sampler]\nmine = a_sampler_plugin:{factory}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


@pytest.mark.parametrize("factory", ["fails", "no_sampler", "missing"])
def test_an_installed_sampler_that_cannot_be_created_is_a_clear_error(
    open_it: Open, plugin: Callable[[str], None], factory: str
) -> None:
    plugin(factory)
    with pytest.raises(SetupError, match=r"'mine'.*Remedy: .*OTEL_TRACES_SAMPLER"):
        open_it(sampler="mine", sampler_arg="7")


def test_an_installed_sampler_is_used_with_its_argument(open_it: Open, plugin: Callable[[str], None]) -> None:
    plugin("Named")
    opened = open_it(sampler="mine", sampler_arg="7")
    opened.emit(1)
    assert names(opened) == ["span"]
    assert opened.tracing.tracer.sampler.get_description() == "mine(7)"  # type: ignore[attr-defined]

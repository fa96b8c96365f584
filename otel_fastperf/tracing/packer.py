"""The thread that encodes finished spans soon after they end, whatever the collector does meanwhile."""

import threading
import time
from collections.abc import Callable
from contextvars import Context
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.internals.guard import Guard
from otel_fastperf.tracing.buffer import Buffer
from otel_fastperf.tracing.log_once import Notices
from otel_fastperf.tracing.otlp_encoder import EncodedSpan

#: spans that are encoded before the other threads get a chance to run
_SLICE: Final = 32
#: seconds of that chance: a sleep of 0 would take the GIL back before a thread that waits for it has woken up
_BREATH: Final = 0.0002
#: seconds in which spans gather; the end of a span wakes the thread only when it has had nothing to do for longer
_GATHER: Final = 0.1
_STAY_AWAKE: Final = 1.0
#: spans that have gathered sooner wake it as well
_MANY: Final = 1024


class Packer:
    """Moves spans of the buffer from ended to encoded. `on_packed` is called after each slice, on the same thread."""

    def __init__(
        self,
        buffer: Buffer,
        encode: Callable[[ReadableSpan], EncodedSpan],
        on_packed: Callable[[], None],
        notices: Notices,
        guard: Guard,
    ) -> None:
        self._buffer = buffer
        self._encode = encode
        self._on_packed = on_packed
        self._notices = notices
        self._guard = guard
        self._thread: threading.Thread | None = None
        self._asleep = False
        self._ended = False
        self._wake = threading.Event()
        #: held while a slice is encoded: slices stay in order, and a fork finds no lock in use
        self._packing = threading.Lock()
        self._forking: int | None = None

    def start(self) -> None:
        """Start the thread."""
        # an empty context: the thread must not keep alive what the first request has set
        run = Context().run
        thread = threading.Thread(target=run, args=(self._run,), name="otel_fastperf-encoder", daemon=True)
        thread.start()
        self._thread = thread

    def is_current_thread(self) -> bool:
        """Whether the caller is this packer's thread."""
        return self._thread is not None and self._thread.ident == threading.get_ident()

    def came(self) -> None:
        """After a span was put: see that it is encoded."""
        if (self._asleep or self._buffer.unencoded > _MANY) and not self._wake.is_set():
            self._wake.set()

    def pack(self) -> int:
        """Encode a slice, on whatever thread; how many spans there were."""
        with self._packing:
            spans = self._buffer.take_to_encode(_SLICE)
            if not spans:
                return 0
            encoded: list[EncodedSpan] = []
            try:
                for span in spans:
                    self._append(encoded, span)
            finally:
                self._buffer.put_encoded(encoded, len(spans) - len(encoded))
        self._on_packed()
        return len(spans)

    def pack_waiting(self, go_on: Callable[[], bool]) -> bool:
        """Encode what has ended by now, as long as `go_on()`; whether there was anything. Others may pack as well."""
        packed = False
        # one more than there seem to be: it waits for the slice that another thread encodes
        for _ in range(self._buffer.unencoded // _SLICE + 1):
            if not go_on() or not self.pack():
                break
            packed = True
            time.sleep(_BREATH)
        return packed

    def end(self) -> None:
        """End the thread; what is not encoded stays."""
        self._ended = True
        self._wake.set()

    def before_fork(self, patience: float) -> None:
        """Let the slice under way end."""
        if self._packing.acquire(timeout=patience):
            self._forking = threading.get_ident()

    def after_fork(self) -> None:
        """In the parent: go on."""
        if self._forking == threading.get_ident():
            self._forking = None
            self._packing.release()

    def _append(self, encoded: list[EncodedSpan], span: ReadableSpan) -> None:
        try:
            encoded.append(self._encode(span))
        except Exception as error:  # noqa: BLE001 - a name that is not text, for example; it costs only this span
            self._notices.unencodable(span.name, type(error).__name__)

    def _run(self) -> None:
        busy_until = 0.0
        while not self._ended:
            try:
                if self.pack_waiting(lambda: not self._ended):
                    busy_until = time.monotonic() + _STAY_AWAKE
            except Exception as error:  # noqa: BLE001 - the thread must not die before its time
                self._guard.failed("sender", error)
            self._rest(awake=time.monotonic() < busy_until)

    def _rest(self, *, awake: bool) -> None:
        if awake:
            self._wake.wait(_GATHER)
        else:
            self._asleep = True
            # a span that ended just before has found the thread awake
            if not self._buffer.unencoded:
                self._wake.wait()
            self._asleep = False
        self._wake.clear()

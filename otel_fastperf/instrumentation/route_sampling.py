"""Sampling by route: how many requests of a path are traced. All are measured.

A span is sampled when it starts, which is before the request is routed. So the path is compared with templates, in the
order of the setting, and the first that fits counts. The decision of a caller stands, as with every parent-based
sampler, and the spans inside of a request follow its SERVER span.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from opentelemetry.trace import Tracer
from starlette.routing import compile_path
from starlette.types import Scope

from otel_fastperf.errors import SetupError
from otel_fastperf.signals import Signals
from otel_fastperf.tracing.tracer import sampling_at


class _Rule(NamedTuple):
    """Requests whose spans one tracer starts. `method` is "" for all."""

    method: str
    path: re.Pattern[str]
    tracer: Tracer


class RouteSampling:
    """Which tracer starts the span of a request."""

    def __init__(self, ratios: Mapping[str, float], signals: Signals) -> None:
        """`ratios`: fractions of traces to keep by `"/path/{template}"` or `"METHOD /path/{template}"`.

        Raises:
            SetupError: Another library's provider is in use, whose sampler cannot be replaced.
        """
        self._otherwise: Final = signals.tracer
        self._rules: Final = tuple(_rule(route, ratio, signals) for route, ratio in ratios.items())

    def tracer(self, scope: Scope) -> Tracer:
        """The tracer for the SERVER span of this request."""
        path: str = scope["path"]
        root_path: str = scope.get("root_path", "")
        inner = path.removeprefix(root_path) if root_path else path
        method = scope.get("method", "")
        for rule in self._rules:
            if rule.method in {"", method} and (rule.path.match(inner) or rule.path.match(path)):
                return rule.tracer
        return self._otherwise


def _rule(route: str, ratio: float, signals: Signals) -> _Rule:
    method, _, path = route.rpartition(" ")
    tracer = sampling_at(ratio, signals.tracer, signals.guard)
    if tracer is None:
        message = (
            "traces.route_ratios has no effect, because the tracer provider is another library's, with a sampler that"
            f" cannot be replaced ({type(signals.tracer).__name__})."
            " Remedy: remove the setting, or let otel_fastperf make the provider."
        )
        raise SetupError(message)
    return _Rule(method, compile_path(path)[0], tracer)

"""What a scraper asks for: `Accept` and `Accept-Encoding`, parsed according to RFC 9110 (12.4.2, 12.5.1, 12.5.3).

A malformed header counts as absent. The answer is then what every scraper can read: text 0.0.4, uncompressed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_OPENMETRICS: Final = "application/openmetrics-text"
_TEXT: Final = "text/plain"
#: the requested versions of OpenMetrics for which 1.0.0 is an answer; `""` if no version was given
_VERSION_1: Final = re.compile(r"(?:1(?:\.\d+){0,2})?")
#: https://github.com/prometheus/docs/blob/main/docs/instrumenting/escaping_schemes.md
_ESCAPINGS: Final = frozenset({"allow-utf-8", "underscores", "dots", "values"})
_QUALITY: Final = re.compile(r"0(?:\.\d*)?|1(?:\.0*)?")
#: maximum number of characters that are parsed; Prometheus 3 sends 350
_LONGEST: Final = 4096


@dataclass(frozen=True, slots=True)
class Format:
    """OpenMetrics 1.0.0, or the text format 0.0.4.

    Attributes:
        escaping: Scheme for names with characters outside of `[a-zA-Z0-9_:]`; `""` for prometheus_client's default.
    """

    openmetrics: bool = False
    escaping: str = ""


@dataclass(frozen=True, slots=True)
class _Choice:
    """One part of a comma-separated header: `text/plain;version=0.0.4;q=0.5`. An invalid quality counts as 0."""

    name: str
    parameters: dict[str, str]
    quality: float


def format_for(accept: str) -> Format:
    """The format for an `Accept` header: OpenMetrics if it is named and `text/plain` is not preferred.

    Wildcards mean text: a browser or a probe that accepts anything does not read OpenMetrics.
    """
    text = best = 0.0
    chosen = Format()
    for choice in _choices(accept):
        if choice.name == _TEXT:
            text = max(text, choice.quality)
        elif choice.name == _OPENMETRICS and choice.quality > best and _VERSION_1.fullmatch(_version(choice)):
            best = choice.quality
            escaping = choice.parameters.get("escaping", "")
            chosen = Format(openmetrics=True, escaping=escaping if escaping in _ESCAPINGS else "")
    return chosen if best >= text else Format()


def gzip_accepted(accept_encoding: str) -> bool:
    """True if an `Accept-Encoding` header allows gzip, by name or by `*`."""
    qualities = {choice.name: choice.quality for choice in _choices(accept_encoding)}
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0))) > 0


def _version(choice: _Choice) -> str:
    return choice.parameters.get("version", "")


def _choices(header: str) -> Iterator[_Choice]:
    for part in header[:_LONGEST].split(","):
        name, *rest = part.split(";")
        pairs = (parameter.partition("=") for parameter in rest)
        parameters = {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}
        quality = parameters.get("q", "1")
        yield _Choice(name.strip().lower(), parameters, float(quality) if _QUALITY.fullmatch(quality) else 0.0)

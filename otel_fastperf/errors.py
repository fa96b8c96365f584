"""What the package raises.

    FastPerfError
    ├── SettingsError    one or more settings are wrong; the message lists them all
    ├── SetupError       the app or the installed packages cannot be instrumented as asked
    └── ReportError      a text is no report

Nothing here is ever raised into a request: see `guard`.
"""


class FastPerfError(Exception):
    """Base of every error raised by otel_fastperf."""


class SettingsError(FastPerfError):
    """One or more settings are wrong. The message has a line for each: key, value, rule, cure."""


class SetupError(FastPerfError):
    """The app, or a package it runs on, cannot be instrumented as asked. The message names the cure."""


class ReportError(FastPerfError):
    """A text that was to be read as a `Report` is none. The message says why, and names the cure."""

"""The exceptions that the package raises.

    FastPerfError
    ├── SettingsError       settings are wrong
    ├── SetupError          the app or an installed package cannot be instrumented
    ├── AllocationsError    allocations cannot be traced now
    ├── ReportError         a text is not a report
    ├── AppError            the command line cannot import the app
    ├── AskingError         the command line cannot reach the service's debug route
    ├── StackError          a stack of containers cannot be written or read
    ├── RunError            the command line cannot run a command
    └── SmokeError          a step of `otel-fastperf stack smoke` failed

Each message names the remedy. None of these errors reaches a request: see `internals.guard`.
"""


class FastPerfError(Exception):
    """Base class of the package's exceptions."""


class SettingsError(FastPerfError):
    """Settings are wrong. The message lists all of them, one per line: key, value, rule, remedy."""


class SetupError(FastPerfError):
    """The app, or a package it runs on, cannot be instrumented as requested."""


class AllocationsError(FastPerfError):
    """Allocations cannot be traced: a trace is already running, or an argument is out of range."""


class ReportError(FastPerfError):
    """A text cannot be read as a `Report`."""


class AppError(FastPerfError):
    """The app named on the command line cannot be imported. The message is one line."""


class AskingError(FastPerfError):
    """The debug route of a service cannot be read. The message is one line."""


class StackError(FastPerfError):
    """A stack of containers cannot be written or read. The message has one line per problem: key, value, rule."""


class RunError(FastPerfError):
    """`otel-fastperf run` cannot run the command. The message is one line."""


class SmokeError(FastPerfError):
    """A step of the smoke test failed. The message is one line."""

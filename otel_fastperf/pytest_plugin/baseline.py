"""The baseline: a file of known violations that fail no test, so that old code can adopt budgets today.

It has one entry per finding, sorted, without line numbers, so that edits above a finding do not change it. The entry of
a request with too many statements has their number, which may only fall.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from otel_fastperf.pytest_plugin.budgets import Violation
from otel_fastperf.pytest_plugin.naming import Name

_VERSION: Final = 1


@dataclass(slots=True)
class Baseline:
    """Known violations, with the number of statements of a request."""

    known: dict[Name, int] = field(default_factory=dict)

    def knows(self, violation: Violation) -> bool:
        """Whether the violation is known and not worse than before."""
        return violation.name in self.known and violation.queries <= self.known[violation.name]

    def stale(self, seen: Collection[Name], routes: Collection[tuple[str, str]]) -> list[Name]:
        """The entries that were not seen again although their routes were requested; sorted.

        A violation on a route that this run did not request may still exist.
        """
        return sorted(name for name in self.known if name not in seen and _judged(name, routes))

    def updated(self, adopted: Mapping[Name, int], routes: Collection[tuple[str, str]]) -> "Baseline":
        """The violations of this run, and the entries that it could not judge."""
        kept = {name: queries for name, queries in self.known.items() if not _judged(name, routes)}
        return Baseline({**kept, **adopted})

    def text(self) -> str:
        """The content of the file."""
        entries = [_entry(name, queries) for name, queries in sorted(self.known.items())]
        return json.dumps({"version": _VERSION, "findings": entries}, indent=2, ensure_ascii=False) + "\n"


def read(path: Path) -> Baseline:
    """The baseline in a file.

    Raises:
        pytest.UsageError: The file is missing or cannot be read; the message names the remedy.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["version"] != _VERSION:
            message = f"its version is {content['version']!r}, but this otel-fastperf reads {_VERSION}"
            raise ValueError(message)  # noqa: TRY301 - becomes a UsageError below
        return Baseline({_name(entry): int(entry.get("queries", 0)) for entry in content["findings"]})
    except FileNotFoundError:
        message = f"fastperf: the baseline {path} does not exist. Remedy: create it with --fastperf-update-baseline."
        raise pytest.UsageError(message) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        message = (
            f"fastperf: the baseline {path} cannot be read ({reason})."
            " Remedy: delete it, then run with --fastperf-update-baseline."
        )
        raise pytest.UsageError(message) from None


def adopted(violations: Iterable[Violation]) -> dict[Name, int]:
    """Violations as entries, with the highest number of statements per entry."""
    entries: dict[Name, int] = {}
    for violation in violations:
        entries[violation.name] = max(violation.queries, entries.get(violation.name, 0))
    return entries


def _judged(name: Name, routes: Collection[tuple[str, str]]) -> bool:
    return (name.method, name.route) in routes or (not name.route and bool(routes))


def _entry(name: Name, queries: int) -> dict[str, Any]:
    entry: dict[str, Any] = {field: value for field, value in name._asdict().items() if value}
    return {**entry, "queries": queries} if queries else entry


def _name(entry: Mapping[str, Any]) -> Name:
    return Name(*(str(entry.get(field, "")) for field in Name._fields))
